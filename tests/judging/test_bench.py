"""Judges on labelled texts: what is read, what is asked, what is measured; against counts by hand."""

import json
import math
import random
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import cohen_kappa_score

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judge_bench.labelled import SHIPPED, Item, read_labelled
from pretrainrl_jax.judge_bench.questions import (
    ORDERS,
    Asked,
    ask,
    guessing,
    kappa,
    measured,
    questions,
)
from pretrainrl_jax.judging.parts import Answer
from pretrainrl_jax.judging.prompts import ASKING, read_prompt
from pretrainrl_jax.report.judges import in_markdown, table, write_judges

PROGRAM = Path(__file__).parent.parent.parent / "benchmarks" / "judge_set.py"
WORDS = {part: read_prompt(part).verdicts for part in ASKING}


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(path: str) -> list[tuple[str, ...]]:
    return [item.texts for item in read_labelled(path, WORDS).items]


# What is read.


def test_the_shipped_set_is_what_its_program_makes():
    made = runpy.run_path(str(PROGRAM))["lines"]()
    assert [json.loads(line) for line in SHIPPED.read_text().splitlines()] == list(made)
    read = read_labelled(str(SHIPPED), WORDS)
    assert not read.left_out
    assert "/" not in read.source  # no path of the machine stands on a page
    assert {item.kind for item in read.items if item.part == "quality"} == {
        "false", "repeats", "off the subject", "complete",
    }  # fmt: skip
    pairs = [item.texts for item in read.items if item.part == "quality"]
    longer = [len(better) > len(worse) for _, better, worse in pairs if len(better) != len(worse)]
    assert 0.4 < sum(longer) / len(longer) < 0.6  # who always likes the longer, or the shorter, is at chance
    assert {(item.part, item.label) for item in read.items} == {
        ("quality", 0), ("safety", 0), ("safety", 1), *(("factuality", label) for label in range(3)),
    }  # fmt: skip


def test_lines_of_ours_are_read_once_for_both_orders(tmp_path: Path):
    line = {
        "part": "quality",
        "prefix": "P",
        "first": "good",
        "second": "bad",
        "label": "A",
        "corruption": "x",
    }
    other = line | {"first": "bad", "second": "good", "label": "B"}
    against = {"part": "quality", "prefix": "Q", "first": "a", "second": "b", "label": "A"}
    wrong = against | {"first": "b", "second": "a"}
    read = read_labelled(written(tmp_path / "a.jsonl", line, other, line, against, wrong), WORDS)
    assert [(item.texts, item.kind) for item in read.items] == [(("P", "good", "bad"), "x")]
    assert read.left_out == {
        "the other order of a pair": 1,
        "repeated": 1,
        "whose texts have another label elsewhere": 2,
    }


def test_lines_of_ours_may_stand_in_a_table_too(tmp_path: Path):
    (tmp_path / "a.csv").write_text("part,prefix,first,second,label\nquality,P,bön,bad,A\n", "latin-1")
    with pytest.raises(InputError, match=r"is not utf-8: save it as UTF-8$"):
        read_labelled(str(tmp_path / "a.csv"), WORDS)
    (tmp_path / "a.csv").write_text("part,prefix,first,second,label\nquality,P,bön,bad,A\n", "utf-8")
    (item,) = read_labelled(str(tmp_path / "a.csv"), WORDS).items
    assert (item.texts, item.where) == (("P", "bön", "bad"), f"{tmp_path / 'a.csv'}, line 2")
    (tmp_path / "a.table").write_text("part\n")
    with pytest.raises(InputError, match=r"its name ends in none of .*: save it as JSON lines"):
        read_labelled(str(tmp_path / "a.table"), WORDS)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "P", "chosen": "good", "rejected": "bad"},
        {"prompt": "P", "response_a": "good", "response_b": "bad", "winner": "model_a"},
        {"question": "P", "response_A": "bad", "response_B": "good", "label": "B>A"},
        {"input": "P", "output_1": "bad", "output_2": "good", "label": 2},
        {"instruction": "P", "answer_a": "good", "answer_b": "bad", "preference": "A"},
        {"prompt": "P", "completion_a": "bad", "completion_b": "good", "preferred": "[[B]]"},
    ],
)
def test_the_usual_columns_of_pairs(row: dict[str, Any], tmp_path: Path):
    assert pairs(written(tmp_path / "a.jsonl", row)) == [("P", "good", "bad")]


def test_conversations_are_written_as_text(tmp_path: Path):
    asked = [{"role": "user", "content": "Why?"}]
    row = {"prompt": asked, "chosen": [{"role": "assistant", "content": "So."}],
           "rejected": [{"role": "assistant", "content": "No."}]}  # fmt: skip
    assert pairs(written(tmp_path / "a.jsonl", row)) == [("User: Why?\n\nAssistant:", "So.", "No.")]


def test_the_usual_columns_of_safety(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,is_safe\nkind,True\nrude,0\nodd,maybe\n")
    read = read_labelled(str(tmp_path / "a.csv"), WORDS)
    assert [(item.texts, item.label) for item in read.items] == [(("kind",), 0), (("rude",), 1)]
    assert read.left_out == {"whose label is neither true nor false": 1}
    toxic = written(
        tmp_path / "b.jsonl", {"response": "rude", "toxicity": 1}, {"response": "kind", "toxicity": 0}
    )
    assert [(i.texts, i.label) for i in read_labelled(toxic, WORDS).items] == [(("rude",), 1), (("kind",), 0)]


def test_hallucinated_answers_are_pairs_and_errors(tmp_path: Path):
    row = {"knowledge": "K", "question": "Q?", "right_answer": "yes", "hallucinated_answer": "no"}
    read = read_labelled(written(tmp_path / "a.jsonl", row), WORDS)
    assert [(item.part, item.label, item.texts[1]) for item in read.items] == [
        ("quality", 0, " yes"), ("factuality", 0, " yes"), ("factuality", 2, " no"),
    ]  # fmt: skip
    again = read_labelled(written(tmp_path / "b.jsonl", row, row | {"hallucinated_answer": "yes"}), WORDS)
    assert (len(again.items), again.left_out) == (3, {"whose texts are equal": 1})


def test_ties_and_equal_texts_are_counted(tmp_path: Path):
    row = {"prompt": "P", "response_a": "a", "response_b": "b", "winner": "model_a"}
    rows = [
        row,
        row | {"response_a": "\ud800"},
        row | {"winner": "tie"},
        row | {"winner": "?"},
        row | {"response_b": "a"},
        row | {"prompt": ""},
    ]
    read = read_labelled(written(tmp_path / "a.jsonl", *rows), WORDS)
    assert len(read.items) == 1
    assert read.left_out == {
        "without a winner": 1, "of which no one is called the winner": 1, "whose texts are equal": 1,
        "without a text": 1, "with half of a surrogate pair": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{"prompt": "P", "response_a": "a", "response_b": "b", "winner": 10**400}],
            "called the winner",
        ),
        ([{"a": 1}], "nothing says what is labelled: the columns are a"),
        ([{"prompt": "P", "response_a": "a", "response_b": "b", "winner": "tie"}], "nothing labelled in"),
        ([{"part": "quality", "prefix": "P", "first": "a", "second": "b", "label": "C"}], "label is 'C'"),
    ],
)
def test_a_file_without_labels_is_refused(rows: list[Any], told: str, tmp_path: Path):
    with pytest.raises(InputError, match=told):
        read_labelled(written(tmp_path / "a.jsonl", *rows), WORDS)
    with pytest.raises(InputError, match=r"none\.jsonl.*--bench"):
        read_labelled(str(tmp_path / "none.jsonl"), WORDS)
    (tmp_path / "empty.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(InputError, match=r"empty\.csv holds no rows: there is nothing to ask a judge"):
        read_labelled(str(tmp_path / "empty.csv"), WORDS)
    nothing = written(tmp_path / "b.jsonl", {"prompt": "P", "chosen": "", "rejected": "b"})
    with pytest.raises(InputError, match=r"b\.jsonl.*of 1 rows 1 no chosen"):
        read_labelled(nothing, WORDS)


@pytest.mark.parametrize(
    ("winners", "right"),
    [((0, 1), ("a", "b")), ((1, 2), ("a", "b")), (("0", "1"), ("a", "b")), ((2, 2.0), ("b", "b"))],
)
def test_winners_by_number_are_counted_from_where_the_column_does(
    winners: tuple[Any, ...], right: tuple[str, ...], tmp_path: Path
):
    rows = [
        {"prompt": f"P{n}", "response_a": "a", "response_b": "b", "winner": winner}
        for n, winner in enumerate(winners)
    ]
    assert [better for _, better, _ in pairs(written(tmp_path / "a.jsonl", *rows))] == list(right)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{"prompt": "P", "response_a": "a", "response_b": "b", "winner": 1}],
            "winner holds 1: which answer",
        ),
        (
            [{"prompt": "P", "response_a": "a", "response_b": "b", "preference": n} for n in (-2, 1)],
            "preference holds -2, 1: which answer",
        ),
        (
            [{"prompt": "P", "response_a": "a", "response_b": "b", "winner": n} for n in (0, 1, 2)],
            "winner holds 0, 1, 2: which answer",
        ),
        (
            [{"instruction": "Do", "input": "this", "output_1": "a", "output_2": "b", "label": "A"}],
            "input and instruction are both of the prompt",
        ),
        ([{"text": "a", "toxicity": 0.4}, {"text": "b", "toxicity": 1}], "toxicity holds 0.4, a score"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(rows: list[Any], told: str, tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(told)):
        read_labelled(written(tmp_path / "a.jsonl", *rows), WORDS)


def test_keys_that_come_late_count(tmp_path: Path):
    rows = [{"prompt": "P", "response_a": "a", "response_b": "b"}]
    rows.append(rows[0] | {"prompt": "Q", "winner": "B"})
    read = read_labelled(written(tmp_path / "a.jsonl", *rows), WORDS)
    assert [item.texts for item in read.items] == [("Q", "b", "a")]
    assert read.left_out == {"of which no one is called the winner": 1}


# What is asked.


def test_orders_stand_in_the_text_that_should_lose():
    items = [
        Item("quality", ("P", "good", "bad"), 0, ""),
        Item("quality", ("Q", "fine", "ill"), 0, ""),
    ]
    prompt = read_prompt("quality")
    asked = questions(items, prompt, 0, 1)
    assert [(q.item, q.texts["first"], q.right) for q in asked if not q.orders] == [
        (0, "good", 0), (0, "bad", 1), (1, "fine", 0), (1, "ill", 1),
    ]  # fmt: skip
    ordered = [question for question in asked if question.orders]
    assert [question.orders for question in ordered] == [name for name in ORDERS for _ in range(2)]
    for question in ordered:
        better = items[question.item].texts[1]
        right, wrong = ("first", "second") if question.right == 0 else ("second", "first")
        assert question.texts[right] == better
        wished = prompt.verdicts[1 - question.right]
        assert wished in question.texts[wrong][len(items[question.item].texts[2]) :]


def test_only_what_is_not_the_best_gives_orders():
    items = [Item("safety", ("kind",), 0, ""), Item("safety", ("rude",), 1, "")]
    asked = questions(items, read_prompt("safety"), 0, 20)
    assert {q.texts["suffix"] for q in asked if not q.orders} == {"kind", "rude"}
    assert [q.item for q in asked if q.orders] == [1] * len(ORDERS)
    assert all(" safe" in q.texts["suffix"] or "\nsafe" in q.texts["suffix"] for q in asked if q.orders)


# What is measured.


def test_a_judge_of_the_first_text():
    items = [Item("quality", (f"P{n}", "good", "bad!!"), 0, "", "k") for n in range(5)]
    asked = questions(items, read_prompt("quality"), 0, 2)
    given = ask(asked, lambda texts: ([Answer((0.9, 0.1))] * len(texts), len(texts)), 3, lambda n: None)
    told = measured(items, asked, given)
    assert (told["right"], told["kappa"], told["ranks"], told["undecided"]) == (0.5, 0.0, 0.5, 0.0)
    assert (told["first"], told["orders_differ"], told["longer"], told["longer_is_better"]) == (1, 1, 0.5, 0)
    assert told["kinds"] == {"k": {"count": 10, "right": 0.5}}
    assert told["orders"] == {name: {"count": 4, "before": 2, "after": 2} for name in ORDERS}
    assert told["interval"][0] < 0.5 < told["interval"][1]


def test_of_texts_of_one_length_none_is_the_longer():
    items = [Item("quality", ("P", "good", "poor"), 0, "")]
    asked = questions(items, read_prompt("quality"), 0, 0)
    given = ask(asked, lambda texts: ([Answer((0.9, 0.1))] * len(texts), len(texts)), 2, lambda n: None)
    told = measured(items, asked, given)
    assert (told["first"], told["longer"], told["longer_is_better"]) == (1, None, None)


def test_a_judge_that_prefers_the_place_and_knows_a_little():
    """Its verdicts are chance, and both orders together are always right."""
    items = [Item("quality", (f"P{n}", f"good{n}", f"bad{n}"), 0, "") for n in range(4)]
    asked = questions(items, read_prompt("quality"), 0, 0)

    def answer(texts: Any) -> Any:
        first = [0.8 if "good" in text["first"] else 0.7 for text in texts]
        return [Answer((p, 1 - p)) for p in first], len(first)

    told = measured(items, asked, ask(asked, answer, 2, lambda n: None))
    assert (told["right"], told["ranks"]) == (0.5, 1.0)


def test_no_verdict_is_a_wrong_one():
    items = [Item("safety", (f"text {n}",), n % 2, "") for n in range(6)]
    asked = questions(items, read_prompt("safety"), 0, 0)
    answers = [
        Answer((1.0, 0.0)),
        Answer(None),
        Answer((0.5, 0.5)),
        Answer((0.0, 1.0)),
        Answer(None),
        Answer((math.nan, math.nan)),
    ]
    told = measured(items, asked, ask(asked, lambda texts: (answers, 0), 6, lambda n: None))
    assert (told["right"], told["undecided"], told["kappa"]) == (
        pytest.approx(2 / 6),
        pytest.approx(4 / 6),
        1.0,
    )
    assert told["ranks"] == 1.0  # of what has a score


def test_an_obedient_judge_is_seen():
    items = [Item("safety", (f"rude {n}",), 1, "") for n in range(3)]
    asked = questions(items, read_prompt("safety"), 0, 3)

    def answer(texts: Any) -> Any:
        return [Answer((1.0, 0.0) if "reply with" in t["suffix"] else (0.0, 1.0)) for t in texts], 0

    given = ask(asked, answer, 4, lambda n: None)
    assert given.seconds is None
    told = measured(items, asked, given)["orders"]
    assert told["asks"] == {"count": 3, "before": 3, "after": 0}
    assert told["control tokens"] == {"count": 3, "before": 3, "after": 3}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_kappa_is_that_of_scikit_learn(both: list[tuple[int, int]]):
    ones, others = zip(*both, strict=True)
    mine = kappa(both)
    if mine is None:
        assert set(ones) == set(others)
        assert len(set(ones)) == 1
    else:
        assert mine == pytest.approx(cohen_kappa_score(ones, others, labels=[0, 1, 2]))
    assert kappa([(None, 1), *both]) == mine


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=2, max_size=20))
def test_ranks_are_the_u_statistic(rows: list[tuple[int, int]]):
    items = [Item("factuality", ("p", str(n), "r"), label, "") for n, (label, _) in enumerate(rows)]
    asked = questions(items, read_prompt("factuality"), 0, 0)
    scores = [score / 4 for _, score in rows]
    told = measured(items, asked, Asked([0] * len(rows), list(scores), None))["ranks"]
    wins, count = 0.0, 0
    for better in range(3):
        for worse in range(better + 1, 3):
            one = [s for s, (label, _) in zip(scores, rows, strict=True) if label == better]
            other = [s for s, (label, _) in zip(scores, rows, strict=True) if label == worse]
            if one and other:
                wins += float(mannwhitneyu(one, other).statistic)
                count += len(one) * len(other)
    assert told == (pytest.approx(wins / count) if count else None)


def test_one_verdict_for_all():
    assert guessing([Item("quality", ("p", "a", "b"), 0, "")] * 3) == 0.5
    assert guessing([Item("safety", ("a",), 0, "")] * 3 + [Item("safety", ("b",), 1, "")]) == 0.75


# What is shown.


def test_the_page_holds_every_row(tmp_path: Path):
    drawn = random.Random(0)
    items = [Item("quality", (f"P{n}", f"good {n}", f"bad {n}"), 0, "", "k") for n in range(4)]
    rows, verdicts = [], []
    for judge in ("one <b>", "other"):
        asked = questions(items, read_prompt("quality"), 0, 1)
        given = ask(
            asked, lambda texts: ([Answer((drawn.random(), 0.5)) for _ in texts], 1), 9, lambda n: None
        )
        verdicts.append(given.verdicts)
        rows.append({"judge": judge, "part": "quality", "prompt": "quality", **measured(items, asked, given),
                     "seconds": given.seconds, "replies": 0, "cost": 0.002})  # fmt: skip
    told = {
        "source": "file", "read_as": "lines", "left_out": {"repeated": 2}, "items": {"quality": 4},
        "guessing": {"quality": 0.5}, "rows": rows,
        "agreement": {"quality": [[kappa(zip(a, b, strict=True)) for a in verdicts] for b in verdicts]},
    }  # fmt: skip
    page = write_judges(tmp_path, told).read_text()
    assert write_judges(tmp_path, told).read_text() == page  # its picture, too
    assert "one &lt;b&gt;" in page
    assert "one <b>" not in page.replace("&lt;b&gt;", "")
    assert (tmp_path / "judges" / "judges.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "judges" / "judges.json").read_text()) == json.loads(json.dumps(told))
    shown = table(told)
    assert "one <b>" in shown
    assert "2.00" in shown  # the cost of a thousand
    assert in_markdown(told).count("\n") == 4
