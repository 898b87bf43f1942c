"""From rows to facts: every row becomes a fact or is counted, by a rule that is explained."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import python
from helpers.fact_sources import LETTERS, ROW, in_memory, read, refused, write
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.config import Config, FactsConfig, WorldConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.cleaning import REPAIRS, RULES
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.facts.world import make_world

DROPPED = {
    "no question": {"question": " "},
    "no answer": {"answer": "", "answers": [None, " "]},
    "empty answer": {"answer": "?!", "answers": ["...", "\u200b-"]},
    "bad popularity": {"popularity": "many"},
    "null answer": {"answer": "None", "answers": ["nan"]},
    "not text": {"answer": {"en": "Florence"}},
    "broken list": {"answer": "['Florence', 'Fir"},
    "several lines": {"answer": "Florence\nRome"},
    "open question": {"question": "Who rules {}?", "subject": " "},
    "broken text": {"answer": "\ud83d"},
}


@pytest.mark.parametrize("rule", DROPPED)
def test_what_is_dropped_is_named_with_its_rule(rule: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [ROW, ROW | {"id": "8"} | DROPPED[rule]]))
    reading = read(path)
    (dropped,) = reading.dropped
    assert (dropped.where, dropped.rule) == ("facts.jsonl, line 2", rule)
    assert RULES[rule]
    assert dropped.text.isprintable()
    assert (reading.rows, len(reading.facts), reading.merged) == (2, 1, [])
    path.write_text(path.read_text().splitlines()[1])
    if rule != "not text":  # then there is no such column at all
        assert f"of 1 rows 1 {rule}; the first is facts.jsonl, line 1: " in refused(path)


def test_what_is_repaired_is_counted(tmp_path: Path) -> None:
    repaired = {
        "question": "Cafe\u0301\nof {}?",
        "answers": "['Florence', '!', 'Fir\u200benze', 'NA', 'None']",
        "popularity": None,
        "answer_popularity": -2,
        "subject_id": 5.0,
        "category": "1990-01-01 00:00:00",
    }
    other = {"question": "Café of Arno?", "answer": "Roma", "popularity": "1,234", "subject": "Arno"}
    reading = read(write(tmp_path / "facts.json", [ROW | repaired, other]))
    assert reading.repaired == dict.fromkeys(REPAIRS.keys() - {"short numbers", "no rewording"}, 1) | {
        "shared truths": 2
    }
    fact, second = reading.facts
    assert (fact.question, fact.answers) == ("Café of Arno?", ("Florence", "Firenze", "NA", "Roma"))
    assert (fact.popularity, fact.answer_popularity, fact.subject_key) == (0, 0, "5")
    assert (second.answers, second.popularity) == (("Roma", "Florence", "Firenze", "NA"), 1234)


def test_right_to_left_text_stays_as_it_is(tmp_path: Path) -> None:
    row = ROW | {"question": "מהי בירת איטליה?", "answer": "רומא", "answers": ["روما"]}
    (fact,) = read(write(tmp_path / "facts.csv", [row])).facts
    assert (fact.question, fact.answers) == (row["question"], ("רומא", "روما"))


def test_blank_taken_and_reserved_ids(tmp_path: Path) -> None:
    ids = ["", "5", "5", "row2", None, 5, "6"]
    rows = [ROW | {"question": f"Q{number}?", "id": own} for number, own in enumerate(ids)]
    facts = read(write(tmp_path / "facts.json", rows)).facts
    assert [fact.id for fact in facts] == ["row1", "5", "row3", "row4", "row5", "row6", "6"]


def test_the_key_of_a_subject(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"subject_id": " "}, ROW | {"subject_id": None, "subject": ""}]
    facts = read(write(tmp_path / "facts.json", rows), duplicates="keep").facts
    assert [fact.subject_key for fact in facts] == ["Q1", "Arno", ROW["question"]]


def test_answers_are_cut_where_a_separator_is_set(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.csv", [{"question": "Who?", "possible_answers": "b|a|b| "}])
    assert read(path, answer_separator="|").facts[0].answers == ("b", "a")
    assert "line 2: possible_answers is not a JSON list" in refused(path)


def test_categories(tmp_path: Path) -> None:
    rows = [ROW | {"question": f"Q{n}?", "category": c} for n, c in enumerate(["a", "b", "a", "country"])]
    path = write(tmp_path / "facts.tsv", [*rows, ROW | {"category": "b", "question": ""}])
    reading = read(path, categories=("a",))
    assert [fact.category for fact in reading.facts] == ["a", "a"]
    assert reading.left_out == {"other category": 3}
    assert reading.dropped == []
    assert "'contry'" in refused(path, categories=("a", "contry"))
    assert "did you mean country?" in refused(path, categories=("contry",))
    assert "there are a, b, country" in refused(path, categories=("zzz",))


def test_limit(tmp_path: Path) -> None:
    rows = [{"question": f"Q{number}?", "answer": "a"} for number in range(30)]
    path = write(tmp_path / "facts.csv", rows)
    reading = read(path, limit=10, seed=3)
    assert reading.facts == subsample(read(path).facts, 10, 3)
    assert reading.left_out == {"beyond the limit": 20}
    assert {f.id for f in reading.facts} != {f.id for f in read(path, limit=10, seed=4).facts}


def test_the_head_is_what_the_limit_leaves_out_best_known_first(tmp_path: Path) -> None:
    known = {"s_pop": lambda n: str(n * 7 % 30)}
    rows = [{"question": f"Q{n}?", "answer": "a", "s_pop": known["s_pop"](n)} for n in range(30)]
    settings = FactsConfig(path=str(write(tmp_path / "facts.csv", rows)), limit=10, head=5)
    config = Config(facts=settings)
    facts = read_facts(config).facts
    head = read_facts(config).head
    others = sorted({float(n) for n in range(30)} - {fact.popularity for fact in facts})
    assert [fact.popularity for fact in head] == others[:-6:-1]
    assert read_facts(Config(facts=replace(settings, head=0))).head == []
    twice = [row | {"category": kind} for row in rows for kind in ("a", "b")]
    doubled = replace(settings, path=str(write(tmp_path / "twice.csv", twice)), limit=20)
    both = read_facts(Config(facts=doubled))
    assert {fact.question for fact in both.head}.isdisjoint(fact.question for fact in both.facts)
    plain = write(tmp_path / "plain.csv", [{"question": f"Q{n}?", "answer": "a"} for n in range(30)])
    for path, limit, why in (
        (plain, 10, "says of no fact how well known it is"),
        (plain, 30, "has 0 facts beyond"),
    ):
        asked = Config(facts=replace(settings, path=str(path), limit=limit))
        with pytest.raises(InputError, match=rf"facts\.head=5: .*{why}"):
            read_facts(asked)
    with pytest.raises(ValueError, match=r"facts\.limit leaves none out"):
        FactsConfig(path=str(plain), head=5)


def test_the_synthetic_world() -> None:
    config = Config(world=WorldConfig(facts=40, relations=2, answers=5), seed=5)
    reading = read_facts(config)
    assert reading.facts == make_world(config.world, 5)
    assert (reading.rows, reading.source) == (40, "the synthetic world")


def test_formats_and_names(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.tsv", [ROW]).rename(tmp_path / "facts.data")
    assert "set facts.format" in refused(path)
    assert read(path, format="tsv").rows == 1
    assert read(path.rename(tmp_path / "FACTS.TSV")).rows == 1
    assert "No such file" in refused(tmp_path / "none")
    assert "facts.path" in refused(tmp_path)


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(LETTERS + "\ud83d", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab.", max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
names = st.sampled_from([*ROW, "possible", "answer.value"])
odd_rows = st.lists(st.dictionaries(names, cells, max_size=5), max_size=6)


@pytest.mark.parametrize("duplicates", ["merge", "keep", "drop"])
@settings(deadline=None, max_examples=80)
@given(rows=odd_rows, limit=st.integers(0, 3))
def test_every_row_is_accounted_for(duplicates: Any, rows: list[dict[str, Any]], limit: int) -> None:
    contents = [ROW | {"category": "its own"}, *rows]  # a good row that no other contradicts
    path = in_memory("odd.json", json.dumps(contents).encode())
    reading = read(path, duplicates=duplicates, limit=limit)
    counted = len(reading.facts) + len(reading.dropped) + len(reading.merged) + reading.left_out.total()
    assert counted == reading.rows == len(rows) + 1
    assert {row.rule for row in reading.dropped + reading.merged} <= RULES.keys()
    assert reading.repaired.keys() <= REPAIRS.keys()
    ids = Counter(fact.id for fact in reading.facts)
    assert max(ids.values()) == 1
    if duplicates != "keep":
        assert len({(fact.category, fact.question) for fact in reading.facts}) == len(reading.facts)


def test_nothing_heavy_is_imported_for_a_small_file(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.csv", [ROW])
    program = (
        "import sys; from pretrainrl_jax.config import *;"
        "from pretrainrl_jax.facts.reading import read_facts;"
        "print(len(read_facts(Config(facts=FactsConfig(path=sys.argv[1]))).facts), *sys.modules, sep='\\n')"
    )
    ran = python("-c", program, path)
    assert ran.code == 0, ran.err
    number, *imported = ran.out.split()
    assert number == "1"
    heavy = {"numpy", "jax", "transformers", "datasets", "pyarrow", "tensorflow_datasets", "fsspec", "rich"}
    assert heavy & {name.partition(".")[0] for name in imported} == set()
    assert "numpy" in sys.modules  # here it is: the check above can fail
