"""What may be wrong with negatives, counted by hand; and the signatures that it gives."""

import json
import math

import pytest
from helpers.models_and_trees import fact

from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.knowledge.signatures import of_mining
from pretrainrl_jax.mining.quality import quality
from pretrainrl_jax.trees.tree import AnswerTree, Branch

NUMBER = 40


def asked(number: int, answer: str = "Florence", **values) -> Fact:
    return fact(id=str(number), question=f"Capital of Arno {number}?", answers=(answer,), **values)


def tree(of: Fact, negatives: dict[str, float], truth: float = 0.1) -> AnswerTree:
    branches = [Branch((2, 9), "chosen", of.answer, reference_logp=math.log(truth))]
    branches += [Branch((3, 9), "rejected", t, reference_logp=math.log(p)) for t, p in negatives.items()]
    return AnswerTree(of.id, (1,), tuple(branches))


def mined(facts: list[Fact], trees: list[AnswerTree], **values):
    described = {"quality": quality(trees, facts), **values}
    return json.loads(json.dumps(described, allow_nan=False))


def told(facts: list[Fact], trees: list[AnswerTree], **values) -> list[str]:
    return [signature.name for signature in of_mining(mined(facts, trees, **values))]


FACTS = [asked(i, f"Florence {i}") for i in range(NUMBER)]
HEALTHY = [tree(f, {f"Rome {i % 9}": 0.2, "Pisa": 0.05, f"Turin {i}": 0.01}) for i, f in enumerate(FACTS)]
CLEAN = {"dropped": {"beam": {"duplicate": 10, "overlaps": 5, "known_true": 40}}, "by_source": {"beam": 120}}


def test_healthy_negatives_are_silent() -> None:
    assert told(FACTS, HEALTHY, **CLEAN) == []
    held = quality(HEALTHY, FACTS)
    assert held["questions"] == NUMBER
    assert held["odds"] == {"0": NUMBER}  # 0.26 by 0.1
    assert held["fragments"] == held["hidden_truths"] == {"questions": 0, "examples": []}
    assert held["most_believed"] == {"capital": {"text": "rome 0", "questions": 5, "of": NUMBER}}


def test_nothing_mined_and_files_of_older_versions_are_silent() -> None:
    assert told(FACTS, []) == []
    assert of_mining({}) == []
    assert of_mining({"negatives": 5, "dropped": {"beam": {"duplicate": 1}}, "by_source": {"beam": 9}}) == []


@pytest.mark.parametrize(
    ("truth", "p", "power"),
    [(0.5, 0.004, -3), (0.5, 0.006, -2), (1e-9, 1e-5, -3), (1e-9, 2e-4, -2), (0.9, 0.0900001, -1)],
)
def test_odds_are_those_of_all_negatives_together(truth: float, p: float, power: int) -> None:
    """A truth under 1 % counts as 1 %, so that nonsense is not plausible beside it."""
    trees = [tree(FACTS[0], {"Rome": p / 2, "Pisa": p / 4, "Turin": p / 4}, truth)]
    assert quality(trees, FACTS)["odds"] == {str(power): 1}


def test_nonsense_is_implausible() -> None:
    nonsense = [tree(f, {f"xq{i} zv": 1e-7, f"{i} kk": 1e-9}, truth=1e-6) for i, f in enumerate(FACTS)]
    (signature,) = of_mining(mined(FACTS, nonsense))
    assert (signature.name, signature.system) == ("implausible negatives", "base")
    assert "in 40 of 40 questions" in signature.evidence
    assert told(FACTS, nonsense[:22] + HEALTHY[22:]) == []  # 55 %: not surely most


def test_the_same_answer_again() -> None:
    again = {"dropped": {"beam": {"duplicate": 300, "unfinished": 900}}, "by_source": {"beam": 120}}
    (signature,) = of_mining(mined(FACTS, HEALTHY, **again))
    assert signature.name == "duplicate negatives"
    assert signature.evidence == "300 of 420 finished beams are the same answer again"


def test_one_answer_is_the_strongest_falsehood_of_a_category() -> None:
    one = [tree(f, {"Rome": 0.3, f"Pisa {i}": 0.1}) for i, f in enumerate(FACTS)]
    (signature,) = of_mining(mined(FACTS, one))
    assert signature.evidence == "'rome' is the most probable negative in 40 of 40 questions of capital"
    assert told(FACTS, one[:36] + HEALTHY[36:]) == []  # nine in ten, not surely more


def test_fragments_begin_an_answer_or_are_letters() -> None:
    pieces = [tree(f, {"Flor": 0.3, "Ro": 0.2, f"Turin {i}": 0.1}) for i, f in enumerate(FACTS)]
    held = quality(pieces, FACTS)["fragments"]
    assert held["questions"] == NUMBER
    assert held["examples"][0] == ["Capital of Arno 0?", "Flor"]
    assert "fragments" in told(FACTS, pieces)
    beside = [tree(f, {f"San{i}": 0.3, f"San{i} Marino": 0.2}) for i, f in enumerate(FACTS)]
    assert quality(beside, FACTS)["fragments"]["questions"] == NUMBER


def test_what_is_true_elsewhere_is_no_fragment() -> None:
    """Short answers, and those that begin others, where the category has them."""
    short = [*FACTS, asked(100, "Ro"), asked(101, "Flor")]
    pieces = [tree(f, {"Flor": 0.3, "Ro": 0.2}) for f in FACTS]
    assert quality(pieces, short)["fragments"]["questions"] == 0
    letters = [asked(i, "Fe") for i in range(NUMBER)]
    assert quality([tree(f, {"Au": 0.3}) for f in letters], letters)["fragments"]["questions"] == 0


def test_beams_that_overlap_truths_are_fragments() -> None:
    overlapping = {"dropped": {"beam": {"overlaps": 300}}, "by_source": {"beam": 120}}
    (signature,) = of_mining(mined(FACTS, HEALTHY, **overlapping))
    assert signature.name == "fragments"
    assert signature.evidence == "300 of 420 finished beams are a part of a true answer, or hold one"


@pytest.mark.parametrize(
    ("answer", "negative", "hidden"),
    [
        ("São Paulo", "Sao Paulo", True),
        ("São Paulo", "SaoPaulo", True),
        ("Paris", "Paris, France", True),
        ("New York City", "New York", True),
        ("Paris", "Parish", False),
        ("かき", "がき", False),  # another word
        ("Москва", "Минск", False),
    ],
)
def test_truths_in_another_spelling_or_by_the_looser_rule(answer: str, negative: str, hidden: bool) -> None:
    facts = [asked(i, answer) for i in range(NUMBER)]
    trees = [tree(f, {negative: 0.3, f"Rome {i}": 0.2}) for i, f in enumerate(facts)]
    assert quality(trees, facts)["hidden_truths"]["questions"] == (NUMBER if hidden else 0)
    assert ("hidden truths" in told(facts, trees)) is hidden


def test_truths_of_a_namesake() -> None:
    here = [asked(i, "Florence", subject=f"Arno {i}", subject_key=f"Q{i}") for i in range(NUMBER)]
    there = [asked(100 + i, "Rome", subject=f"arno {i}", subject_key=f"Q{100 + i}") for i in range(NUMBER)]
    other = [asked(100 + i, "Rome", subject=f"Arno {i}", category="river") for i in range(NUMBER)]
    trees = [tree(f, {"Rome": 0.3}) for f in here]
    assert quality(trees, here + there)["hidden_truths"]["questions"] == NUMBER
    assert quality(trees, here + other)["hidden_truths"]["questions"] == 0
    assert quality(trees, here)["hidden_truths"]["questions"] == 0


def test_few_hidden_truths_are_not_surely_more_than_one_in_fifty() -> None:
    few = [tree(f, {f"The {f.answer}, Italy" if i < 2 else f"Rome {i}": 0.3}) for i, f in enumerate(FACTS)]
    assert quality(few, FACTS)["hidden_truths"]["questions"] == 2
    assert told(FACTS, few) == []
