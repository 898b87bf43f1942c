"""Each signature of a system on numbers made to fail that way, silent on healthy ones and on noise."""

import random
from typing import Any

import pytest

from pretrainrl_jax.knowledge.signatures import (
    FEWEST,
    Seen,
    Signature,
    forgetting,
    of_training,
    overconfidence,
    probability_without_accuracy,
    saturation,
    swallowed_category,
)

BOUND = 0.5


def question(right: bool, said: str = "", p: float = 0.1, **values: Any) -> dict[str, Any]:
    said = said or ("Florence" if right else "Rome")
    values = {"correct": right, "rank": 1 if right else None, "p_aliases": p, "category": "capital"} | values
    return {"prediction": said, "confidence": p, "best_right": right, **values}


def seen(before: list[Any], after: list[Any], nll: Any = (2.0, 2.1), lines: Any = (), **groups: Any) -> Seen:
    groups = {"trained": (before, after)} | groups
    return Seen(
        "dpo", {name: list(zip(*sides, strict=True)) for name, sides in groups.items()}, nll, BOUND, lines
    )


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"stage": "train/dpo", "step": step, "loss": loss} for step, loss in enumerate(values, 1)]


def falling(count: int, low: float = 1.0, high: float = 3.0) -> list[dict[str, Any]]:
    """A noisy loss that falls from one value to the other."""
    noise = random.Random(0)
    slope = (high - low) / count
    return losses(*(high - slope * step + noise.uniform(-0.1, 0.1) for step in range(count)))


def healthy(count: int = 200) -> Seen:
    """A fifth right before, three fifths after, surer of what is right; the loss falls."""
    before = [
        question(i % 5 == 0, f"a{i % 7}" if i % 5 else "", 0.3 if i % 5 == 0 else 0.1) for i in range(count)
    ]
    after = [
        question(i % 5 < 3, f"b{i % 7}" if i % 5 >= 3 else "", 0.7 if i % 5 < 3 else 0.1)
        for i in range(count)
    ]
    return seen(before, after, lines=falling(60))


def test_a_healthy_run_is_silent() -> None:
    assert of_training(healthy()) == []


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_silent(seed: int) -> None:
    """Before and after are drawn from one distribution: few questions, many answers, a flat loss."""
    draw = random.Random(seed)

    def outcomes(count: int) -> list[Any]:
        rights = [draw.random() < 0.3 for _ in range(count)]
        return [question(r, f"a{draw.randrange(4)}", min(1.0, draw.expovariate(5))) for r in rights]

    for count in (5, 30, 100):
        lines = losses(*(draw.uniform(1, 3) for _ in range(30)))
        assert of_training(seen(outcomes(count), outcomes(count), lines=lines)) == []


def test_nothing_measured_is_silent() -> None:
    """What files of older versions lack, and what no evaluation has."""
    assert of_training(Seen("ntp", {}, (None, None), BOUND)) == []
    bare = [{"correct": False}] * 50
    assert of_training(seen(bare, bare, (None, 9.0), [{"step": 1}, {"step": 2, "loss": None}])) == []


def surer(count: int, hits: int, now: int) -> Seen:
    """Hits at 12 % before; fewer of them at 34 % after, as PretrainRL reports of DPO alone."""
    before = [question(i < hits, p=0.12 if i < hits else 0.01) for i in range(count)]
    return seen(before, [question(i < now, p=0.34 if i < now else 0.01) for i in range(count)])


def test_surer_hits_without_accuracy() -> None:
    told = of_training(surer(1000, 130, 97))[0]
    assert (told.name, told.system) == ("probability without accuracy", "dpo")
    assert "12.0% to 34.0% (+22.0 points" in told.evidence
    assert "13.0% to 9.7% (−3.3 points" in told.evidence
    assert "objectives.NAME.dpo.weight" in told.remedy
    assert probability_without_accuracy(surer(1000, 130, 200)) == ""  # accuracy rises
    assert probability_without_accuracy(surer(20, 5, 4)) == ""  # too few to know that it does not


@pytest.mark.parametrize(("hits", "now"), [(0, 97), (130, 0), (FEWEST - 1, 0), (130, FEWEST - 1)])
def test_few_hits_are_no_surer(hits: int, now: int) -> None:
    assert probability_without_accuracy(surer(1000, hits, now)) == ""


@pytest.mark.parametrize(("count", "gained", "told"), [(200, 0, True), (200, 60, False), (10, 0, False)])
def test_saturation(count: int, gained: int, told: bool) -> None:
    before = [question(i < count // 10, f"a{i % 9}") for i in range(count)]
    after = [question(i < count // 10 + gained, f"b{i % 9}") for i in range(count)]
    evidence = saturation(seen(before, after, lines=falling(60)))
    assert bool(evidence) is told
    if told:
        assert "the loss fell from 2.71 to 1.35" in evidence
        assert "10.0% to 10.0%" in evidence


def test_no_saturation_where_the_loss_is_flat_or_hardly_known_or_all_is_right() -> None:
    before = [question(i < 20, f"a{i % 9}") for i in range(200)]
    assert saturation(seen(before, before, lines=falling(60)))
    assert saturation(seen(before, before, lines=falling(60, 2.9))) == ""
    assert saturation(seen(before, before, lines=falling(9))) == ""
    assert saturation(seen(before, before, lines=falling(60, 3.0, 1.0))) == ""
    known = [question(i < 190) for i in range(200)]
    assert saturation(seen(known, known, lines=falling(60))) == ""


def test_a_step_that_was_written_twice_counts_once() -> None:
    before = [question(i < 20, f"a{i % 9}") for i in range(200)]
    lines = falling(11)
    assert saturation(seen(before, before, lines=lines * 3)) == ""
    assert saturation(seen(before, before, lines=falling(12)))


def swallowing(share: float, count: int, before: float = 0.2) -> Seen:
    """One category, of which a share is answered "Dal" wrongly; another that is well."""
    first = [question(False, "dal." if i < before * count else f"a{i}") for i in range(count)]
    last = [question(False, "Dal" if i < share * count else f"a{i}") for i in range(count)]
    other = [question(i % 2 == 0, f"r{i}", category="river") for i in range(count)]
    return seen(first + other, last + other)


def test_one_answer_swallows_a_category() -> None:
    told = swallowed_category(swallowing(0.9, 40))
    assert "in capital, now 'dal'" in told
    assert "20.0% to 90.0% (+70.0 points" in told
    assert "so are" not in told


@pytest.mark.parametrize(
    ("share", "count", "before"), [(0.4, 40, 0.2), (1.0, FEWEST - 1, 0.0), (0.9, 40, 0.9), (0.6, 20, 0.0)]
)
def test_nothing_is_swallowed(share: float, count: int, before: float) -> None:
    """Less than most, too few questions, no more than before, and not surely most."""
    assert swallowed_category(swallowing(share, count, before)) == ""


def test_the_right_answer_swallows_nothing() -> None:
    before = [question(False, f"a{i}") for i in range(40)]
    assert swallowed_category(seen(before, [question(True, "Dal")] * 40)) == ""


def test_no_answer_is_one_too() -> None:
    before = [question(False, f"a{i}") for i in range(40)]
    told = swallowed_category(seen(before, [question(False) | {"prediction": ""}] * 40))
    assert "now 'nothing'" in told


@pytest.mark.parametrize(
    ("before", "after", "told"), [(2.0, 2.6, True), (2.0, 2.5, False), (None, 9.0, False), (2.0, None, False)]
)
def test_forgetting_is_beyond_a_bound(before: Any, after: Any, told: bool) -> None:
    evidence = "the loss on held-out text rose from 2.00 to 2.60 nats a token, by 0.60; the bound is 0.5"
    assert forgetting(seen([], [], (before, after))) == (evidence if told else "")


def sure(confidence: float, right: int, count: int) -> list[Any]:
    return [question(i < right, p=confidence) for i in range(count)]


def test_ece_rises() -> None:
    told = overconfidence(seen(sure(0.5, 50, 100), sure(0.9, 55, 100)))
    assert told.startswith("trained facts: ECE went from 0.0% to 35.0% (+35.0 points")
    assert told.endswith("mean confidence is 90.0%, right 55.0%")
    both = seen(sure(0.5, 50, 100), sure(0.5, 50, 100), held_out=(sure(0.2, 10, 50), sure(0.9, 10, 50)))
    told = overconfidence(both)
    assert told.startswith("held out facts: ECE went from 0.0% to 70.0%")


def test_underconfidence_few_questions_and_confidences_of_older_versions_are_silent() -> None:
    assert overconfidence(seen(sure(0.5, 50, 100), sure(0.3, 60, 100))) == ""  # ECE rises, too sure it is not
    assert overconfidence(seen(sure(0.5, 3, 6), sure(0.6, 3, 6))) == ""
    older = [{k: v for k, v in q.items() if k != "confidence"} for q in sure(0.9, 5, 100)]
    assert overconfidence(seen(sure(0.5, 50, 100), older)) == ""
    assert overconfidence(seen(older, sure(0.9, 55, 100))) == ""


def test_a_line_says_all_but_the_system() -> None:
    assert Signature("forgetting", "ntp", "it rose", "Lower it").line == "forgetting: it rose. Lower it"
