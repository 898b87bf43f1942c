"""What a step's numbers are, and when they are a collapse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import Config, JudgeConfig, MethodConfig, RolloutsConfig, SelfimproveConfig
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.improvement.collapse import FIRST, Collapse
from pretrainrl_jax.improvement.cost import Cost, cost_of, warnings_of
from pretrainrl_jax.improvement.learning import Candidate, judged_tree
from pretrainrl_jax.improvement.metrics import Judged, gap_metrics, rollout_metrics, verdict_metrics

CUT = Cut(0, "a", (5, 6, 7, 8), (5, 6), (7, 8))


def judged(texts: list[tuple[int, ...]], scores: list[float], kinds: str = "") -> Judged:
    names = {"o": "original", "w": "rewrite", "r": "rollout"}
    listed = tuple(
        Candidate(names[kind], tokens, str(tokens), (-2.0,) * len(tokens) if kind == "r" else ())  # type: ignore[arg-type]
        for kind, tokens in zip(kinds or "r" * len(texts), texts, strict=True)
    )
    parts = {"facts": tuple(2 * score for score in scores)}
    return Judged(CUT, "p", listed, tuple(scores), parts, judged_tree(CUT, listed, scores, contrasts=True))


def test_shares_and_scores_by_kind():
    step = [
        judged([(1,), (2,), (3,)], [1.0, 0.0, 0.5], "owr"),
        judged([(1,), (2,), (3,)], [0.0, 0.5, 1.0], "orr"),
        judged([(1,), (2,)], [0.5, 0.5], "or"),
    ]
    metrics = verdict_metrics(step)
    assert (metrics["learned"], metrics["dropped_ties"]) == (2, 1)
    assert [metrics[f"chosen_{kind}"] for kind in ("original", "rewrite", "rollout")] == [0.5, 0, 0.5]
    assert [metrics[f"rejected_{kind}"] for kind in ("original", "rewrite", "rollout")] == [0.5, 0.5, 0]
    assert metrics["score_original"] == pytest.approx(0.5)
    assert metrics["score_rewrite"] == 0.0
    assert metrics["score_rollout"] == pytest.approx(np.mean([0.5, 0.5, 1.0, 0.5]))
    assert metrics["score_part_facts"] == pytest.approx(2 * np.mean([1, 0, 0.5, 0, 0.5, 1, 0.5, 0.5]))
    nothing = verdict_metrics([judged([(1,)], [0.5])])
    assert nothing["chosen_rollout"] is None
    assert nothing["score_original"] is None


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@given(st.lists(st.lists(tokens, min_size=1, max_size=4, unique=True), min_size=2, max_size=4))
def test_variety_by_brute_force(texts):
    metrics = rollout_metrics([judged(of_document, [0.0] * len(of_document)) for of_document in texts])
    grams = [t[i : i + 3] for own in texts for t in own for i in range(len(t) - 2)]
    assert metrics["distinct_ngrams"] == (len(set(grams)) / len(grams) if grams else None)
    every = {t for own in texts for t in own}
    assert metrics["same_text"] == max(sum(t in own for own in texts) for t in every) / len(texts)
    assert metrics["rollout_entropy"] == 2.0
    assert metrics["rollout_tokens"] == pytest.approx(np.mean([len(t) for own in texts for t in own]))


def test_without_rollouts_nothing_is_measured():
    assert set(rollout_metrics([judged([(1, 2)], [0.0], "o")] * 2).values()) == {None}
    assert gap_metrics({"logp_gap_total": 0.0, "logp_gap_tokens": 0.0, "logp_gap_max": 0.0}) == {
        "logp_gap_mean": None,
        "logp_gap_max": None,
    }


def seen(entropy: float, distinct: float = 0.9, same: float | None = 0.1) -> dict[str, float | None]:
    return {"rollout_entropy": entropy, "distinct_ngrams": distinct, "same_text": same}


def test_a_collapse_is_said_once_and_again_after_it_was_over():
    collapse = Collapse(0.25)
    for step in range(FIRST):
        assert not collapse.look(step + 1, seen(2.0))
    assert not collapse.look(6, seen(0.51))
    assert collapse.look(7, seen(0.49)) == [
        "collapse at step 7: the rollouts' entropy is 0.49 nats a token, below 0.50"
    ]
    assert not collapse.look(8, seen(0.1))
    resumed = Collapse(0.25, collapse.state)
    assert not resumed.look(9, seen(0.1))
    assert not resumed.look(10, seen(1.0))
    assert len(resumed.look(11, seen(0.3, distinct=0.2, same=0.6))) == 3
    told = resumed.state["told"]
    assert [(one["step"], one["what"], one["ended"]) for one in told] == [
        (7, "entropy", 10),
        (11, "entropy", 0),
        (11, "distinct_ngrams", 0),
        (11, "same_text", 0),
    ]


def test_the_cost_of_the_paper_s_run_by_arithmetic():
    """16 rollouts × batch 256 is 61,440 pair verdicts an update, 123 million in 2,000 steps."""
    config = Config(
        rollouts=RolloutsConfig(count=16),
        judge=JudgeConfig(facts=0.0, repetition=0.0, quality=1.0, path="judge"),
        selfimprove=SelfimproveConfig(documents=256, suffix=128),
    )
    cost = cost_of(config, MethodConfig(candidates=("rollout",)), 2000)
    assert cost == Cost(8_192_000, 8_192_000 * 128, 122_880_000)
    assert cost.verdicts // 2000 == 61_440
    assert cost_of(config, MethodConfig(update="next_token", candidates=("document",)), 2000) == Cost(0, 0, 0)


def test_pairs_that_are_not_all_judged_are_warned_of():
    judge = JudgeConfig(quality=1.0, path="judge")
    assert warnings_of(judge) == []
    assert warnings_of(JudgeConfig(pairs="pivot")) == []  # which compares nothing
    (pivot,), (sample,) = (warnings_of(replace(judge, pairs=pairs)) for pairs in ("pivot", "sample"))
    assert "one pivot in place of all pairs took quality from 84.3 to 72.1" in pivot
    assert sample.startswith("judge.pairs=sample: what a sample of pairs costs is not known")
