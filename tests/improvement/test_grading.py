"""What outputs earn, by hand."""

import pytest

from pretrainrl_jax.improvement.grading import Graded, grade_rewrites, grade_verdict, measured, sentence
from pretrainrl_jax.improvement.labels import Labelled
from pretrainrl_jax.judging.prompts import read_verdict
from pretrainrl_jax.judging.protocol import Case, JudgeError
from pretrainrl_jax.judging.rewriting import last_words, read_rewrite

RIGHT, WRONG, NONE = Graded(1.0, "right"), Graded(0.0, "wrong"), Graded(0.0, "malformed")


@pytest.mark.parametrize(
    ("output", "graded"),
    [
        (" B", RIGHT),
        (" A", WRONG),
        ("The first repeats itself. Verdict: B", RIGHT),
        ("Verdict: B, or rather\nVerdict: A", WRONG),
        ("B is better than A", NONE),
        ("Verdict: C", NONE),
        ("", NONE),
    ],
)
def test_a_verdict_earns_one_where_it_is_the_label(output: str, graded: Graded):
    example = Labelled("quality", ("p", " a", " b"), "B", "x:1")
    assert grade_verdict(example, output, ("A", "B")) == graded


def test_a_verdict_is_read_as_the_prompt_writes_it():
    assert read_verdict("verdict: UNSAFE.", ("safe", "unsafe")) == "unsafe"


def test_rewrites_by_hand():
    prefix = "one two three four five six "
    safe = Labelled("rewrite", (prefix, "seven."), "safe", "x:1")
    unsafe = Labelled("rewrite", (prefix, "damn long words"), "unsafe", "x:2")
    asked: list[Case] = []

    def worth(cases):
        asked.extend(cases)
        return [[0.125, 0.75] if len(case.candidates) == 2 else [0.25] for case in cases]

    opening = "two three four five six "
    outputs = [
        [f" {opening}seven.", f" {opening}seven", "seven.", opening, f"{opening} seven."],
        [f"{opening}nice", f"{opening}nice", f"{opening}damn long words", "nice", f"{opening}nice and long"],
    ]
    grades = grade_rewrites([safe, unsafe], outputs, worth, lambda example, text: text[:15])
    changed, lost = Graded(0.0, "changed"), Graded(0.0, "malformed")
    assert grades[0] == [Graded(1.0, "copied"), changed, lost, lost, changed]
    rewritten = Graded(0.75, "rewritten")
    assert grades[1] == [rewritten, rewritten, Graded(0.25, "rewritten"), lost, rewritten]
    assert [case.candidates for case in asked] == [  # each different rewrite once, against the original
        ("damn long words", "nice"),
        ("damn long words",),
        ("damn long words", "nice and long"),
    ]
    (graded,) = grade_rewrites(
        [unsafe], [outputs[1][1:4]], lambda cases: [[0.5, 0.75], [None]], lambda e, t: t
    )
    assert graded == [rewritten._replace(reward=0.0), Graded(0.0, "unjudged"), lost]
    with pytest.raises(JudgeError, match="x:2"):
        grade_rewrites([unsafe], outputs[1:], lambda cases: [[0.0, 1.5]] * len(cases), lambda e, t: t)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("a b c d e f", "b c d e f"),
        ("a b\nc  d e f \n", "b\nc  d e f \n"),
        ("a b", "a b"),
        ("  ", ""),
        ("", ""),
    ],
)
def test_the_last_five_words(prefix: str, words: str):
    assert last_words(prefix) == words


def test_a_rewrite_opens_with_the_last_words():
    assert read_rewrite("\n the ca t sat", "the ca") == " t sat"
    assert read_rewrite("the cat", "the ca") == "t"
    assert read_rewrite("The cat", "the ca") is None
    assert read_rewrite("the ca \n", "the ca") is None
    assert read_rewrite(" anything", "") == " anything"


def test_what_is_held_out_is_told_with_its_interval():
    """Two orders of a pair are one unit: a judge that always says A is at a half of five, not of ten."""
    examples = [
        Labelled("quality", ("", first, second), label, f"x:{n}")
        for n in range(5)
        for first, second, label in ((f"{n}", "z", "A"), ("z", f"{n}", "B"))
    ]
    always = measured(examples, [RIGHT, WRONG] * 5)["quality"]
    assert (always["count"], always["reward"]) == (10, 0.5)
    low, high = always["interval"]
    assert low < 0.4 < 0.6 < high
    result = measured(examples, [RIGHT] * 9 + [NONE])
    assert result["all"]["outcomes"] == {"malformed": 1, "right": 9}
    assert sentence(result).startswith("quality 90.0 % (")
    assert sentence(result).endswith("of 10, 1 malformed")
