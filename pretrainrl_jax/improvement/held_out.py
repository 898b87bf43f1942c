"""How well a judge or a rewriter does on labelled texts that it did not learn from."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pretrainrl_jax.improvement.grading import MALFORMED, Graded
from pretrainrl_jax.improvement.labels import Labelled
from pretrainrl_jax.report.bootstrap import mean_interval


def group_of(example: Labelled) -> str:
    """What an example is told with: its part; of a rewriter, whether its suffix is safe."""
    return example.label if example.part == "rewrite" else example.part


def measured(examples: Sequence[Labelled], grades: Sequence[Graded]) -> dict[str, Any]:
    """Of one output for each example: by group, and of all, the mean reward with its 95 % interval.

    Of a judge's verdicts the reward is the accuracy. What belongs together is drawn together: both orders of
    a pair, and what shares a prefix.
    """
    both = list(zip(examples, grades, strict=True))
    groups = {name: [pair for pair in both if group_of(pair[0]) == name] for name in _names(examples)}
    return {name: _told(own) for name, own in groups.items()} | {"all": _told(both)}


def _told(both: Sequence[tuple[Labelled, Graded]]) -> dict[str, Any]:
    rewards, keys = [graded.reward for _, graded in both], [example.key for example, _ in both]
    labels = Counter((group_of(example), example.label) for example, _ in both)
    most = {group: max(n for (own, _), n in labels.items() if own == group) for group, _ in labels}
    return {
        "count": len(both),
        "reward": sum(rewards) / len(rewards),
        "interval": mean_interval(keys, rewards),
        "constant": sum(most.values()) / len(both),  # the accuracy of one label for all of a group
        "outcomes": dict(sorted(Counter(graded.outcome for _, graded in both).items())),
    }


def metrics_of(result: dict[str, Any]) -> dict[str, float | None]:
    """For metrics.jsonl."""
    metrics: dict[str, float | None] = {}
    for name, own in result.items():
        suffix = "" if name == "all" else f"_{name}"
        low, high = own["interval"] or (None, None)
        metrics[f"held_out_reward{suffix}"] = own["reward"]
        metrics |= {f"held_out_low{suffix}": low, f"held_out_high{suffix}": high}
        metrics[f"held_out_{MALFORMED}{suffix}"] = own["outcomes"].get(MALFORMED, 0) / own["count"]
    return metrics


def sentence(result: dict[str, Any]) -> str:
    """In words: the mean reward of each group, which of a judge is its accuracy."""
    names = [name for name in result if name != "all"]
    return "; ".join(
        f"{name} {_words(result[name])}" for name in (names if len(names) == 1 else [*names, "all"])
    )


def _words(own: dict[str, Any]) -> str:
    interval = own["interval"]
    shown = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    malformed = own["outcomes"].get(MALFORMED, 0)
    lost = f", {malformed} malformed" if malformed else ""
    return f"{100 * own['reward']:.1f} %{shown} of {own['count']}{lost}"


def _names(examples: Iterable[Labelled]) -> list[str]:
    return sorted({group_of(example) for example in examples})
