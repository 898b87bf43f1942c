"""The numbers and words of a run on preferences, from evaluations made by hand."""

from typing import Any

import numpy as np
import pytest
from helpers.made_workdirs import by_system
from scipy import stats

from pretrainrl_jax.config import OBJECTIVES
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.knowledge.intervals import mean_interval, ratio_interval, sums, wilson
from pretrainrl_jax.report import preferences
from pretrainrl_jax.report.preferences import examples, headline, reading, table
from pretrainrl_jax.report.systems import Systems

KNOWN = Systems(OBJECTIVES)


def evaluation(system: str, gaps: list[float], base: list[float], prompts: list[str]) -> dict:
    scores = [[p, 1.0, gap, 0.0, was, 0.0] for p, gap, was in zip(prompts, gaps, base, strict=True)]
    texts = {str(i): {"prompt": p, "chosen": "a", "rejected": "b"} for i, p in enumerate(prompts)}
    about = {"of": "held_out", "text_nll": 1.0 + len(system) / 100, "text": "text.txt", "device_seconds": 1.0}
    return {"system": system, "scores": scores, "examples": texts} | about


def weighted(*columns: Any) -> tuple[float, float] | None:
    """Bounds of a weighted mean, of clusters, weights and values."""
    return ratio_interval(*sums(*columns))


def summarise(evaluations: list[dict], dataset: str, model: str) -> dict:
    return preferences.summarise(by_system(evaluations), dataset, model)


BASE, AFTER, PROMPTS = [1.0, -1.0, -2.0, 3.0], [2.0, 0.5, -3.0, 4.0], ["p", "p", "q", "r"]
TWO = [evaluation("base", BASE, BASE, PROMPTS), evaluation("dpo", AFTER, BASE, PROMPTS)]


def test_shares_and_margins_are_means_over_pairs():
    systems = summarise(TWO, "pairs.jsonl", "m")["systems"]
    assert systems["base"]["preference_accuracy"] == 0.5
    assert systems["base"]["reward_accuracy"] is None
    dpo = systems["dpo"]
    assert (dpo["preference_accuracy"], dpo["reward_accuracy"]) == (0.75, 0.75)
    assert dpo["margin"] == pytest.approx(np.mean(np.subtract(AFTER, BASE)))
    assert (dpo["prompts"], dpo["pairs"]) == (3, 4)
    assert (dpo["change"]["before"], dpo["change"]["after"]) == (0.5, 0.75)
    for name in ("preference_accuracy", "reward_accuracy", "margin"):
        low, high = dpo[f"{name}_interval"]
        assert low <= dpo[name] <= high


def test_where_all_pairs_are_alike_the_interval_is_wilsons_of_as_many_prompts():
    same = evaluation("dpo", [1.0] * 4, BASE, PROMPTS)
    dpo = summarise([TWO[0], same], "", "")["systems"]["dpo"]
    assert dpo["preference_accuracy_interval"] == wilson(3, 3)
    nothing = summarise([TWO[0], evaluation("dpo", BASE, BASE, PROMPTS)], "", "")["systems"]["dpo"]
    assert nothing["change"]["low"] < 0 < nothing["change"]["high"]  # no pair flipped: not certainty


@pytest.mark.parametrize("prompts", [1, 20])
def test_an_interval_holds_its_weighted_share(prompts: int):
    """Of each prompt a pair that was stated three times is preferred, and one that was stated once is not."""
    one = evaluation(
        "dpo", [1.0, -1.0] * prompts, [0.0] * 2 * prompts, [f"p{n // 2}" for n in range(2 * prompts)]
    )
    for number, score in enumerate(one["scores"]):
        score[1] = 1.0 if number % 2 else 3.0
    dpo = summarise([one], "", "")["systems"]["dpo"]
    low, high = dpo["preference_accuracy_interval"]
    assert low < dpo["preference_accuracy"] == 0.75 < high
    if prompts == 20:
        assert (low, high) == wilson(15, 20)


def test_an_evaluation_without_pairs_is_refused():
    for scores in ([], None, [["p", 1.0]]):
        with pytest.raises(InputError, match="the evaluation of base lists no pairs"):
            summarise([TWO[0] | {"scores": scores}], "", "")


def test_table_and_words():
    summary = summarise(TWO, "pairs.jsonl", "m")
    shown = table(summary, KNOWN)
    assert "4 held-out pairs of 3 prompts" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert headline(summary, KNOWN) == "Chosen answers preferred: 50.0% before, 75.0% with DPO alone"
    said = " ".join(reading(summary, KNOWN))
    assert "So few prompts are held out" in said
    row, change = (line.split() for line in shown.splitlines() if line.split()[:2] == ["DPO", "alone"])
    assert change[2] == "+25.0"
    assert row[2] == row[4] == "75.0"
    assert row[-2:] == ["1.030", "1.0"]
    made = examples(*TWO)
    assert made
    assert [row[-1] for row in made.texts()] == ["−2.0 → −3.0", "+1.0 → +2.0", "+3.0 → +4.0", "−1.0 → +0.5"]


def test_words_where_nothing_was_trained_or_held_out():
    alone = summarise(TWO[:1], "", "")
    assert headline(alone, KNOWN) == "The base model prefers the chosen answer in 50.0% of pairs"
    trained = summarise([one | {"of": "trained"} for one in TWO], "", "")
    said = reading(trained, KNOWN)
    assert "No prompt is held out: these are the pairs that were trained on." in said
    assert not any("So few prompts" in sentence for sentence in said)
    many = [f"p{n}" for n in range(30)]
    said = reading(summarise([evaluation("dpo", [1.0] * 30, [0.0] * 30, many)], "", ""), KNOWN)
    assert len(said) == 1


def test_examples_of_other_pairs_are_not_put_side_by_side():
    fewer = evaluation("base", BASE[:3], BASE[:3], PROMPTS[:3])
    assert examples(fewer, TWO[1]) is None
    assert "change" not in summarise([fewer, TWO[1]], "", "")["systems"]["dpo"]


def test_the_bootstrap_draws_prompts():
    rng = np.random.default_rng(0)
    values = rng.normal(size=200).tolist()
    alone = weighted([str(i) for i in range(200)], [1.0] * 200, values)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=1)
    assert alone == pytest.approx(wanted.confidence_interval, abs=0.03)
    # Ten pairs of one prompt that say the same are no more than one.
    together = weighted(
        [str(i) for i in range(200) for _ in range(10)], [1.0] * 2000, np.repeat(values, 10).tolist()
    )
    assert together == pytest.approx(alone, abs=1e-12)
    light = weighted(["a", "b", "c"], [1.0, 2.0, 0.5], [0.0, 1.0, 1.0])
    assert light == weighted(["a", "b", "b", "c"], [1.0, 1.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0])
    assert weighted(["a", "a"], [1.0, 1.0], [0.0, 1.0]) is None
    assert mean_interval([], []) is None
