"""Collapse, said while it happens: rollouts that lose their variety, or are one text for many prefixes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FIRST = 5  # steps whose mean later ones are compared with
SAME_TEXT = 0.5  # of a step's documents, with one and the same rollout: a collapse
WATCHED = {"rollout_entropy": "entropy", "distinct_ngrams": "distinct_ngrams"}
WORDS = {
    "entropy": "the rollouts' entropy is {value:.2f} nats a token, below {bound:.2f}",
    "distinct_ngrams": "{value:.0%} of the rollouts' n-grams are distinct, fewer than {bound:.0%}",
    "same_text": "{value:.0%} of the documents have the same rollout, more than {bound:.0%}",
}


@dataclass
class Collapse:
    """What is watched from step to step; `state` is all of it.

    Entropy or distinct n-grams below `share` of the mean of the first steps are a collapse. 0: none.
    """

    share: float
    state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state.setdefault("first", {})
        self.state.setdefault("told", [])

    def look(self, step: int, metrics: Mapping[str, float | None]) -> list[str]:
        """What is to be said after a step, once for each kind of collapse until it is over."""
        said = []
        for name, what in WATCHED.items():
            value, first = metrics.get(name), self.state["first"].setdefault(what, [])
            if value is None:
                continue
            if len(first) < FIRST:
                first.append(value)
            else:
                bound = self.share * sum(first) / FIRST
                said += self._judge(step, what, value, bound, value < bound)
        if (value := metrics.get("same_text")) is not None:
            said += self._judge(step, "same_text", value, SAME_TEXT, value > SAME_TEXT)
        return said

    def _judge(self, step: int, what: str, value: float, bound: float, is_collapse: bool) -> list[str]:
        open_one = next((one for one in self.state["told"] if one["what"] == what and not one["ended"]), None)
        if open_one and not is_collapse:
            open_one["ended"] = step
        if not is_collapse or open_one:
            return []
        told = {"step": step, "what": what, "value": value, "bound": bound, "ended": 0}
        self.state["told"].append(told)
        return [f"collapse at step {step}: {WORDS[what].format(**told)}"]
