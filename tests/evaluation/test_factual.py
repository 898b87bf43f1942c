"""ACC, HR@k, MRR@k and Prob@k by hand and by brute force."""

import math
from dataclasses import replace
from itertools import pairwise

from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.evaluation.factual import Truth, by_popularity, groups, judge, measures
from pretrainrl_jax.facts.matching import normalise


def spelt(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def answer(text: str, p: float, finished: bool = True) -> Answer:
    return Answer(text, spelt(text), math.log(p), finished)


def outcome(beams, greedy="Rome", truths=("Florence", "Firenze"), rule="exact", **changes):
    asked = fact(truths, **changes)
    forced = [Truth(text, spelt(text), math.log(p)) for text, p in zip(truths, (0.1, 0.05), strict=False)]
    return judge(asked, asked.question, "trained", [answer(greedy, 0.4)], beams, forced, rule)


def test_one_question():
    beams = [answer("Rome", 0.4), answer("rome.", 0.2), answer("the FLORENCE", 0.1), answer("Firenze", 0.05)]
    judged = outcome(beams)
    assert not judged.correct
    assert judged.rank == 2  # the second spelling of Rome is no answer of its own
    assert math.isclose(judged.p_hit, 0.1)
    assert math.isclose(judged.p_truth, 0.1)
    assert math.isclose(judged.p_aliases, 0.25)  # the FLORENCE is true, too, and no spelling of the fact's
    assert (judged.measured_twice, round(judged.apart, 6)) == (1, 0)  # Firenze
    assert (judged.falsehood, round(judged.p_falsehood, 6)) == ("Rome", 0.6)  # both spellings
    assert outcome(beams, greedy="florence").correct


def test_unfinished_beams_are_never_hits_but_counted():
    judged = outcome([answer("Florence", 0.4, finished=False), answer("Rome", 0.1)])
    assert judged.rank is None
    assert judged.p_hit is None
    assert (judged.unfinished, judged.beams) == (1, 2)
    asked = fact(("Florence",))
    greedy = [answer("Florence", 0.4, finished=False)]
    truths = [Truth("Florence", spelt("Florence"), -1.0)]
    assert not judge(asked, asked.question, "trained", greedy, [], truths, "exact").correct


def test_the_looser_rule():
    assert not outcome([], greedy="Florence in Italy").correct
    assert outcome([], greedy="Florence in Italy", rule="contains").correct


def test_what_is_known_of_the_wording_is_right():
    """Another fact is asked in these very words, or tells more of the subject."""
    asked = fact(("Florence",))
    beams = [answer("Rome", 0.3), answer("Pisa", 0.2)]
    forced = [Truth("Florence", (1,), -1.0)]
    known = {asked.question: frozenset({"rome"}), "Else?": frozenset({"pisa"})}
    judged = judge(asked, asked.question, "trained", beams[:1], beams, forced, "exact", known)
    assert (judged.correct, judged.rank, judged.falsehood) == (True, 1, "Pisa")
    judged = judge(asked, "Else?", "paraphrase", beams[:1], beams, forced, "exact", known)
    assert (judged.correct, judged.rank, judged.falsehood) == (False, 2, "Rome")


def test_no_beams_at_all():
    judged = judge(fact(), "?", "trained", [], [], [Truth("x", (1,), -2.0)], "exact")
    assert (judged.correct, judged.rank, judged.falsehood, judged.prediction) == (False, None, None, "")


def test_the_falsehood_is_the_most_probable_one_however_beams_are_ranked():
    judged = outcome([answer("Rome", 0.1), answer("Pisa", 0.3), answer("Florence", 0.2)])
    assert (judged.falsehood, round(judged.p_falsehood, 6)) == ("Pisa", 0.3)


def test_an_answer_with_two_probabilities_is_told():
    judged = outcome([answer("Florence", 0.4), answer("Firenze", 0.05)])
    assert judged.measured_twice == 2
    assert math.isclose(judged.apart, math.log(4))


names = st.sampled_from(["Florence", "Firenze", "Rome", "rome!", "Pisa", "the Pisa", "Siena"])
questions = st.lists(st.lists(st.tuples(names, st.booleans()), max_size=6), min_size=1, max_size=8)


@given(questions)
def test_measures_against_brute_force(drawn):
    outcomes, hr, rr, hit = [], [], [], []
    for beams in drawn:
        answers = [answer(name, 0.5 / (1 + i), finished) for i, (name, finished) in enumerate(beams)]
        outcomes.append(outcome(answers, greedy=beams[0][0] if beams else ""))
        seen, rank = [], 0
        for i, (name, finished) in enumerate(beams):
            if finished and normalise(name) not in seen:
                seen.append(normalise(name))
                if not rank and normalise(name) in ("florence", "firenze"):
                    rank = len(seen)
                    hit.append(0.5 / (1 + i))
        hr.append(rank > 0)
        rr.append(1 / rank if rank else 0)
    answers = measures(outcomes)
    assert math.isclose(answers["hr"], sum(hr) / len(hr))
    assert math.isclose(answers["mrr"], sum(rr) / len(rr))
    assert (answers["prob"] is None) == (not hit)
    if hit:
        assert math.isclose(answers["prob"], sum(hit) / len(hit))


def test_popularity_bins_are_equal_and_ordered():
    outcomes = [outcome([], id=str(i), popularity=float(i % 7)) for i in range(23)]
    bins = by_popularity(outcomes, 5)
    assert sum(b["count"] for b in bins) == 23
    assert max(b["count"] for b in bins) - min(b["count"] for b in bins) <= 1
    assert all(a["high"] <= b["low"] for a, b in pairwise(bins))
    assert (bins[0]["low"], bins[-1]["high"]) == (0.0, 6.0)
    assert by_popularity(outcomes[:3], 5)[-1]["count"] == 1


def test_groups():
    trained = [outcome([], id=str(i), popularity=float(i)) for i in range(4)]
    told = {"unseen": lambda f: f.id == "0", "head": lambda f: f.popularity > 1, "neighbour": lambda f: f.id}
    by_group = groups(trained, **told)
    assert by_group["trained"]["count"] == 4
    assert by_group["unseen"]["count"] == 1
    assert "held_out" not in by_group
    assert "held_out_head" not in by_group


def test_held_out_facts_are_neighbours_or_distant():
    outcomes = [replace(outcome([], id=id), group="held_out") for id in ("subject", "answer", "answer", "")]
    told = {"unseen": lambda f: False, "head": lambda f: False, "neighbour": lambda f: f.id}
    counts = {name: group["count"] for name, group in groups(outcomes, **told).items()}
    assert counts == {"held_out": 4, "neighbour_subject": 1, "neighbour_answer": 2, "distant": 1}


def test_beams_of_equal_text_are_one_belief():
    judged = outcome(
        [answer("Pisa", 0.3), answer("Rome", 0.2), answer("rome.", 0.15), answer("Florence", 0.1)]
    )
    assert [(b.text, round(b.confidence, 6), b.right) for b in judged.believed] == [
        ("Rome", 0.35, False),
        ("Pisa", 0.3, False),
        ("Florence", 0.1, True),
    ]
    assert judged.best.spellings == (spelt("Rome"), spelt("rome."))
    assert judged.truths == 2
    assert outcome([]).best.confidence == 0
    silent = outcome([answer("", 0.9), answer(".", 0.05), answer("Rome", 0.01)])
    assert (silent.best.text, round(silent.best.confidence, 6)) == ("Rome", 0.01)  # a word, or no answer
