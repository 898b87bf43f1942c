"""Labelled texts of documents: what all samples must say, what is kept, and what is counted."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.improvement.making import (
    FIRST,
    Agreed,
    Found,
    Piece,
    Question,
    agreed,
    drawn,
    echoes,
    in_rounds,
    judge_lines,
    unsafe_lines,
)
from pretrainrl_jax.judging.parts import Answer
from pretrainrl_jax.judging.prompts import Prompt

VERDICTS = {
    "quality": ("A", "B"),
    "safety": ("safe", "unsafe"),
    "factuality": ("none", "possible", "definite"),
}
TOLD = {"writer": "w", "judge": "j"}
ALL = ("quality", "safety", "factuality")


def answer_of(said: Sequence[str | None], verdicts: Sequence[str]) -> Answer:
    """What a judge on a server makes of these samples."""
    known = [one for one in said if one is not None]
    shares = [known.count(one) / len(known) for one in verdicts] if known else None
    return Answer(shares, {"unreadable": len(said) - len(known)})


@given(st.lists(st.sampled_from(["none", "possible", "definite", None]), min_size=1, max_size=12))
def test_n_of_n_agree_or_there_is_no_label(said: list[str | None]):
    found = agreed(answer_of(said, VERDICTS["factuality"]), VERDICTS["factuality"])
    if len(set(said)) == 1 and said[0] is not None:
        assert found == Agreed(said[0])
    else:
        assert found == Agreed(None, "unreadable" if None in said else "disagreed")


@given(
    st.lists(st.lists(st.sampled_from(["A", "B", None]), min_size=5, max_size=5), max_size=6),
    st.integers(1, 5),
    st.sampled_from(["", "A"]),
)
def test_rounds_keep_what_one_round_keeps(samples: list[list[str | None]], n: int, wanted: str):
    questions = [Question(number, {}, wanted) for number in range(len(samples))]
    asked: list[tuple[int, int]] = []

    def ask(some: Sequence[Question], times: int) -> list[Agreed]:
        asked.extend((one.number, sample) for one in some for sample in range(times))
        return [agreed(answer_of(samples[one.number][:times], "AB"), "AB") for one in some]

    found = in_rounds(ask, questions, n)
    for own, one in zip(samples, found, strict=True):
        whole = agreed(answer_of(own[:n], "AB"), "AB")
        if wanted:  # the others need not be known to the end
            assert (one.verdict == wanted) == (whole.verdict == wanted)
        else:
            assert one.verdict == whole.verdict
    for number, own in enumerate(samples):  # where the first differ no more are asked
        settled = n > FIRST and (len({*own[:FIRST]}) > 1 or own[0] is None or wanted not in ("", own[0]))
        assert len({at for at in asked if at[0] == number}) == (FIRST if settled else n)


def test_draws_follow_the_probabilities_and_repeat():
    questions = [Question(number, {"suffix": "x"}) for number in range(4000)]
    shares = [0.8, 0.2]
    answers = [drawn(Answer(shares), 8, 3, question) for question in questions]
    assert answers == [drawn(Answer(shares), 8, 3, question) for question in questions]
    assert answers != [drawn(Answer(shares), 8, 4, question) for question in questions]
    first = np.array([answer.shares for answer in answers])[:, 0]
    assert np.all(first * 8 == np.round(first * 8))
    assert first.mean() == pytest.approx(0.8, abs=0.02)
    unanimous = np.mean([agreed(answer, ("safe", "unsafe")).verdict == "safe" for answer in answers])
    assert unanimous == pytest.approx(0.8**8, abs=0.03)  # as of eight independent samples


def test_draws_of_no_probabilities_are_unreadable():
    for shares in (None, [float("nan"), float("nan")]):
        answer = drawn(Answer(shares), 8, 0, Question(0, {}))
        assert agreed(answer, ("a", "b")) == Agreed(None, "unreadable")
    assert agreed(drawn(Answer([1.0, 0.0]), 8, 0, Question(0, {})), ("a", "b")) == Agreed("a")


# Lines of a judge.


def pieces(n: int) -> list[Piece]:
    return [Piece(number, f"doc {number}", f"prefix {number}", f" suffix {number} is") for number in range(n)]


def corrupt(name: str, some: Sequence[Piece]) -> list[str | None]:
    return [f" {name} of {piece.number}" for piece in some]


def agreeing(part: str, questions: Sequence[Question]) -> list[Agreed]:
    """The original wins; all is safe; corruptions are wrong."""
    if part == "quality":
        return [Agreed("A" if one.texts["first"] == f" suffix {one.number} is" else "B") for one in questions]
    return [Agreed({"safety": "safe", "factuality": "definite"}[part]) for _ in questions]


def test_each_document_is_corrupted_one_way_in_turn_and_compared_in_both_orders():
    names = ("corrupt_a", "mine")
    made = judge_lines(pieces(3), names, corrupt, agreeing, ALL, VERDICTS, TOLD)
    rows = made.rows["judge-data"]
    assert [row["part"] for row in rows] == ["quality", "quality", "safety", "factuality"] * 3
    assert [row["corruption"] for row in rows if row["part"] == "factuality"] == ["a", "mine", "a"]
    assert rows[0] == {
        "part": "quality", "prefix": "prefix 0", "first": " suffix 0 is", "second": " corrupt_a of 0",
        "label": "A", "corruption": "a", "source": "doc 0", "writer": "w", "judge": "j",
    }  # fmt: skip
    assert rows[1] == rows[0] | {"first": rows[0]["second"], "second": rows[0]["first"], "label": "B"}
    assert rows[2] == {
        "part": "safety",
        "suffix": " suffix 0 is",
        "label": "safe",
        "source": "doc 0",
        "judge": "j",
    }
    assert rows[3] == {
        "part": "factuality", "prefix": "prefix 0", "suffix": " corrupt_a of 0", "reference": " suffix 0 is",
        "label": "definite", "corruption": "a", "source": "doc 0", "writer": "w", "judge": "j",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (None, "malformed"),
        (" \n", "malformed"),
        (" suffix 0 is", "same"),
        ("suffix  0 is\n", "same"),
        (" Suffix, 0 - is", "same"),
        ("...", "same"),
        (" suffix 0", "same"),  # what breaks off earlier is no worse
        (" suffix 1 is", "used"),
        (" suffix 0 is is", "used"),
    ],
)
def test_what_is_no_corruption_is_counted_and_left_out(text: str | None, counted: str):
    made = judge_lines(pieces(1), ["corrupt_x"], lambda name, some: [text], agreeing, ALL, VERDICTS, TOLD)
    assert made.counts[f"corruptions.x.{counted}"] == 1
    used = counted == "used"
    assert [row["part"] for row in made.rows["judge-data"]] == (
        ["quality", "quality", "safety", "factuality"] if used else ["safety"]
    )
    assert bool(made.counts["characters.corruptions"]) == used


@pytest.mark.parametrize(
    ("both", "counted"),
    [
        ((Agreed("A"), Agreed("B")), "original"),
        ((Agreed("A"), Agreed("A")), "otherwise"),  # it prefers a place
        ((Agreed("B"), Agreed("A")), "otherwise"),  # it prefers the corruption
        ((Agreed("A"), Agreed(None, "disagreed")), "disagreed"),
        ((Agreed(None, "disagreed"), Agreed(None, "unreadable")), "unreadable"),
    ],
)
def test_a_pair_is_kept_where_all_samples_in_both_orders_prefer_the_original(
    both: tuple[Agreed, Agreed], counted: str
):
    made = judge_lines(pieces(1), ["c"], corrupt, lambda part, questions: both, ("quality",), VERDICTS, TOLD)
    assert +made.counts == Counter(
        {"documents": 1, "corruptions.c.used": 1, f"quality.{counted}": 1, "characters.originals": 12,
         "characters.corruptions": 7}
    )  # fmt: skip
    assert len(made.rows["judge-data"]) == (2 if counted == "original" else 0)


def test_pairs_that_nobody_is_asked_about_are_kept_and_say_so():
    made = judge_lines(pieces(2), ["c"], corrupt, agreeing, (), VERDICTS, TOLD)
    assert [row["label"] for row in made.rows["judge-data"]] == ["A", "B"] * 2
    assert not any("judge" in row for row in made.rows["judge-data"])


def test_without_a_writer_there_are_labels_of_one_text_alone():
    def split(part: str, questions: Sequence[Question]) -> list[Agreed]:
        return [Agreed("unsafe"), Agreed(None, "disagreed"), Agreed(None, "unreadable")]

    made = judge_lines(pieces(3), ["c"], None, split, ALL[1:2], VERDICTS, TOLD)
    assert [(row["part"], row["label"]) for row in made.rows["judge-data"]] == [("safety", "unsafe")]
    assert +made.counts == Counter(
        {"documents": 3, "safety.unsafe": 1, "safety.disagreed": 1, "safety.unreadable": 1}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" suffix is wrong .\n\nAnd so on.", False),
        ("The passage: he said, and went on", False),
        (" suffix is wrong\n\nThe passage:\n<<<\nof", True),
        (" suffix is wrong\n>>>", True),
        (" suffix is wrong\n\nThe pass", True),  # cut off there
        ("The pass", False),
    ],
)
def test_lines_of_the_prompt_in_a_corruption_are_seen(text: str, expected: bool):
    assert echoes(Prompt("Spoil it.\n\nThe passage:\n<<<\n{words}{suffix}\n>>>\n\nSpoilt:"), text) == expected


# Unsafe documents.


def found(n: int) -> list[Found]:
    return [Found(piece, piece.prefix + piece.suffix, f"end {piece.number}", 5) for piece in pieces(n)]


def test_a_prefix_must_be_unsafe_and_of_its_suffix_all_must_agree():
    asked: list[Question] = []

    def agree(part: str, questions: Sequence[Question]) -> list[Agreed]:
        asked.extend(questions)
        said = {"end 0": "safe", "end 1": None} | {f"end {n}": "unsafe" for n in (2, 3, 4, 5)}
        said |= {
            " suffix 2 is": "safe",
            " suffix 3 is": "unsafe",
            " suffix 4 is": None,
            " suffix 5 is": "odd",
        }
        verdicts = [said[question.texts["suffix"]] for question in questions]
        return [Agreed(verdict, "" if verdict else "disagreed") for verdict in verdicts]

    made = unsafe_lines(found(6), agree, ("safe", "odd", "unsafe"), {"judge": "j"})
    assert [row["source"] for row in made.rows["unsafe-data"]] == [f"doc {n}" for n in (2, 3, 4, 5)]
    assert made.rows["unsafe-data"][0] == {
        "text": "prefix 2 suffix 2 is", "prefix": "prefix 2", "suffix": " suffix 2 is", "blocked": 5,
        "source": "doc 2", "judge": "j",
    }  # fmt: skip
    assert [(row["source"], row["safe"]) for row in made.rows["rewriter-data"]] == [
        ("doc 2", True),
        ("doc 3", False),
    ]
    assert made.counts == {
        "prefix.safe": 1, "prefix.disagreed": 1, "prefix.unsafe": 4,
        "suffix.safe": 1, "suffix.unsafe": 1, "suffix.disagreed": 1, "suffix.odd": 1,
    }  # fmt: skip
    assert [question.wanted for question in asked] == ["unsafe"] * 6 + [""] * 4


def test_without_a_judge_all_that_was_found_is_kept_and_no_suffix_labelled():
    made = unsafe_lines(found(2), None, ("safe", "unsafe"), {"judge": ""})
    assert [row["source"] for row in made.rows["unsafe-data"]] == ["doc 0", "doc 1"]
    assert made.rows.keys() == {"unsafe-data"}
    assert "judge" not in made.rows["unsafe-data"][0]
