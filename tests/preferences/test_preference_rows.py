"""What is read of a file of preferences: forms, columns, formats, and rows that compare nothing."""

import csv
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import PreferenceColumnsConfig, PreferencesConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.preferences.reading import Preferences, read_preferences
from pretrainrl_jax.preferences.record import draw, key, plain, shown, split
from pretrainrl_jax.preferences.rows import RULES


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def written(folder: Path, rows: list[Any], name: str = "pairs.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(folder: Path, *rows: Any, **settings: Any) -> Preferences:
    return read_preferences(PreferencesConfig(path=written(folder, list(rows)), **settings), 0)


def pairs_of(preferences: Preferences) -> Counter[tuple[str, str, str]]:
    """Every pair as the keys of its texts, as often as it counts."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for comparison in preferences.comparisons:
        for pair in comparison.pairs:
            counted[key(comparison.prompt), key(pair.chosen), key(pair.rejected)] += pair.rows
    return counted


ASKED, WHO = key(tuple(user("Who?"))), (key(tuple(said("I"))), key(tuple(said("you"))))


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "Q", "chosen": " a", "rejected": " b"}, [("Q", " a", " b")]),
        ({"prompt": "Q", "chosen": " a", "rejected": [" b", " c"]}, [("Q", " a", " b"), ("Q", " a", " c")]),
        (
            {"prompt": "Q", "chosen": ["a", "b"], "rejected": ["c", "d"]},
            [("Q", x, y) for x in "ab" for y in "cd"],
        ),
        ({"prompt": user("Who?"), "chosen": said("I"), "rejected": said("you")}, [(ASKED, *WHO)]),
        ({"prompt": user("Who?"), "chosen": said("I"), "rejected": [said("you")]}, [(ASKED, *WHO)]),
        ({"prompt": user("Who?"), "chosen": said("I")[0], "rejected": said("you")[0]}, [(ASKED, *WHO)]),
        ({"prompt": user("Who?"), "chosen": "I", "rejected": ["you"]}, [(ASKED, *WHO)]),
        ({"prompt": "Who?", "chosen": said("I"), "rejected": said("you")}, [(ASKED, *WHO)]),
        # As UltraFeedback: whole conversations beside the user's turn.
        (
            {"prompt": "Who?", "chosen": user("Who?") + said("I"), "rejected": user("Who?") + said("you")},
            [(ASKED, *WHO)],
        ),
        (
            {
                "prompt": user("Who?"),
                "chosen": user("Who?") + said("I"),
                "rejected": user("Who?") + said("you"),
            },
            [(ASKED, *WHO)],
        ),
        ({"chosen": user("Who?") + said("I"), "rejected": user("Who?") + said("you")}, [(ASKED, *WHO)]),
        ({"chosen": "Q: Who? A: I", "rejected": "Q: Who? A: you"}, [("Q: Who? A:", " I", " you")]),
        # As tables hold messages with keys of others.
        (
            {
                "prompt": user("Who?"),
                "chosen": [{"role": "assistant", "content": "I", "tool_calls": None}],
                "rejected": said("you"),
            },
            [(ASKED, *WHO)],
        ),
    ],
)
def test_forms(tmp_path, row, wanted):
    assert pairs_of(read(tmp_path, row)) == Counter(wanted)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": "Q", "chosen": "", "rejected": "b"}, "no chosen"),
        ({"prompt": "Q", "chosen": "a", "rejected": []}, "no rejected"),
        ({"prompt": "Q", "chosen": None, "rejected": "b"}, "no chosen"),
        ({"prompt": "Q", "chosen": "a", "rejected": ["b", " \n"]}, "empty answer"),
        ({"prompt": user("Q"), "chosen": said(""), "rejected": said("b")}, "empty answer"),
        ({"prompt": "Q", "chosen": "a", "rejected": "a"}, "equal"),
        ({"prompt": "Q", "chosen": 3, "rejected": "a"}, "not text"),
        ({"prompt": "Q", "chosen": {"text": "a"}, "rejected": "a"}, "not text"),
        (
            {"prompt": user("Q"), "chosen": [{"role": "assistant", "content": 3}], "rejected": said("b")},
            "not text",
        ),
        ({"prompt": ["Q"], "chosen": "a", "rejected": "b"}, "not text"),
        (
            {"prompt": user("Q"), "chosen": {"role": ["assistant"], "content": ["a"]}, "rejected": said("b")},
            "not text",
        ),
        (
            {"prompt": user("Q"), "chosen": said([{"type": "text", "text": " "}]), "rejected": said("b")},
            "empty answer",
        ),
        ({"prompt": user("Q"), "chosen": said("a"), "rejected": "b"}, "mixed"),
        ({"prompt": "Q", "chosen": "\ud800", "rejected": "b"}, "broken text"),
        (
            {"prompt": [user("Q")[0] | {"name": "\ud800"}], "chosen": said("a"), "rejected": said("b")},
            "broken text",
        ),
        ({"prompt": user("Q"), "chosen": said("a") + user("b"), "rejected": said("b")}, "ends with the user"),
    ],
)
def test_a_row_that_compares_nothing_is_counted(tmp_path, row, rule):
    kept = {"prompt": "Q2", "chosen": "x", "rejected": "y"}
    preferences = read(tmp_path, row, kept)
    assert pairs_of(preferences) == Counter([("Q2", "x", "y")])
    assert [(lost.rule, lost.where) for lost in preferences.dropped] == [(rule, "pairs.jsonl, line 1")]
    assert rule in RULES
    with pytest.raises(InputError, match=f"of 1 rows 1 {rule}.*the first is pairs.jsonl, line 1"):
        read(tmp_path, row)


def test_answers_without_a_common_beginning_have_no_prompt(tmp_path):
    preferences = read(tmp_path, {"chosen": "ab", "rejected": "cd"}, {"chosen": "xa", "rejected": "xb"})
    assert [lost.rule for lost in preferences.dropped] == ["no prompt"]
    assert pairs_of(preferences) == Counter([("x", "a", "b")])


TEXT = st.text("abc é", min_size=1, max_size=3)


@given(
    st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=2), st.lists(TEXT, max_size=3)), min_size=1, max_size=8)
)
def test_exactly_the_files_pairs_are_compared(tmp_path_factory, rows):
    """Never the chosen answer of one row with the rejected one of another, though prompts are one."""
    wanted: Counter[tuple[str, str, str]] = Counter()
    for prompt, chosen, rejected in rows:
        if prompt.strip() and all(text.strip() for text in [*chosen, *rejected]):
            wanted.update((prompt, c, r) for c in chosen for r in rejected if c != r)
    path = tmp_path_factory.mktemp("pairs")
    values = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows]
    if not wanted:
        with pytest.raises(InputError, match="no preferences"):
            read(path, *values)
        return
    preferences = read(path, *values)
    assert pairs_of(preferences) == wanted
    prompts = [key(comparison.prompt) for comparison in preferences.comparisons]
    assert len(set(prompts)) == len(prompts)
    assert preferences.repeated == wanted.total() - len(wanted)
    assert preferences.both_ways == sum((p, r, c) in wanted for p, c, r in wanted)


def test_formats_hold_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"prompt": user("Who?"), "chosen": said('I, \n"we"'), "rejected": [said("you"), said("he")]},
        {"prompt": user("And?"), "chosen": said("x"), "rejected": [said("y")]},
    ]
    wanted = pairs_of(read(tmp_path, *rows))
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    numpy = lambda cell: repr(cell).replace("}, {", "}\n {").replace("], [", "]\n [")  # noqa: E731
    for name, dump in (("json.csv", json.dumps), ("python.csv", repr), ("numpy.csv", numpy)):
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            table.writeheader()
            table.writerows({name: dump(value) for name, value in row.items()} for row in rows)
    for name in ("pairs.json", "pairs.parquet", "json.csv", "python.csv", "numpy.csv"):
        assert pairs_of(read_preferences(PreferencesConfig(path=str(tmp_path / name)), 0)) == wanted, name
    pytest.importorskip("datasets")
    (tmp_path / "hub").mkdir()
    written(tmp_path / "hub", rows, "train.jsonl")
    assert pairs_of(read_preferences(PreferencesConfig(path=f"hf:{tmp_path / 'hub'}"), 0)) == wanted


def test_messages_may_hold_dates(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    asked = [user("Who?")[0] | {"at": datetime(2024, 5, 6)}]
    rows = [{"prompt": asked, "chosen": said("I"), "rejected": said("you")}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    (comparison,) = read_preferences(PreferencesConfig(path=str(tmp_path / "pairs.parquet")), 0).comparisons
    assert "2024-05-06" in key(comparison.prompt)
    assert comparison.id


@pytest.mark.parametrize("cell", ["['a' 'b' ...", "[{'role': 'user', 'content': 'x'}\n {'role'", '["a", b]'])
def test_a_list_that_cannot_be_read_is_never_a_text(tmp_path, cell):
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "chosen", "rejected"), ("Q", "x", cell), ("Q", "x", "[1] y")])
    preferences = read_preferences(PreferencesConfig(path=str(tmp_path / "pairs.csv")), 0)
    assert pairs_of(preferences) == Counter([("Q", "x", "[1] y")])
    assert [lost.rule for lost in preferences.dropped] == ["broken list"]


TOLD = {"prompt": "Q", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize("dump", [json.dumps, repr])
@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_messages_written_as_text_are_messages(tmp_path, name, dump):
    """Of every row; one that is a message alone, too. Other JSON is a text."""
    rows = [
        {"prompt": dump(user("Who?")), "chosen": dump(said("I")), "rejected": dump(said("you"))},
        {"prompt": "Who?", "chosen": dump(said("I")[0]), "rejected": dump(said("you")[0])},
        {"prompt": "Q", "chosen": dump({"role": "admin"}), "rejected": dump({"content": 1})},
        {"prompt": "Q", "chosen": dump(said("a")[0]) + " is sent", "rejected": "b"},
    ]
    if name == "pairs.csv":
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    preferences = read_preferences(PreferencesConfig(path=str(tmp_path / name)), 0)
    texts = [("Q", row["chosen"], row["rejected"]) for row in rows[2:]]
    assert pairs_of(preferences) == Counter([(ASKED, *WHO), (ASKED, *WHO), *texts])
    assert not preferences.dropped


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("[{'role': 'assistant', 'content': 'x'}\n {'role': 'user', 'content': 'y'}]", "mixed"),
        ("array([{'role': 'assistant', 'content': 'x'}], dtype=object)", "mixed"),
        ("[{'from': 'gpt', 'value': 'x'}]", "not text"),
        ([{"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}], "not text"),
    ],
)
def test_what_cannot_be_said_is_never_a_text(tmp_path, cell, rule):
    preferences = read(tmp_path, {"prompt": "Q", "chosen": cell, "rejected": "y"}, TOLD)
    assert [lost.rule for lost in preferences.dropped] == [rule]


def test_settings_that_messages_name_are_there(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"train": [TOLD], "test": [{**TOLD, "prompt": "R"}]}))
    with pytest.raises(InputError, match=r"name one in preferences\.records"):
        read_preferences(PreferencesConfig(path=str(path)), 0)
    preferences = read_preferences(PreferencesConfig(path=str(path), records="test"), 0)
    assert pairs_of(preferences) == Counter([("R", "x", "y")])
    path = tmp_path / "pairs.tsv"
    path.write_text('prompt\tchosen\trejected\nQ\t"x\ty\n')
    preferences = read_preferences(PreferencesConfig(path=str(path), quoting="none"), 0)
    assert pairs_of(preferences) == Counter([("Q", '"x', "y")])


def test_columns_are_recognised_or_named(tmp_path):
    rows = [{"Question": "Q", "chosen": "a", "rejected": "b", "score": 1}]
    preferences = read(tmp_path, *rows)
    assert preferences.columns == {"prompt": "Question", "chosen": "chosen", "rejected": "rejected"}
    assert preferences.unused == ["score"]
    nested = {"x": {"q": "Q"}, "good": "a", "bad": "b", "late": 1}
    names = PreferenceColumnsConfig(prompt="x.q", chosen="good", rejected="bad")
    preferences = read(tmp_path, nested, columns=names)
    assert (pairs_of(preferences), preferences.unused) == (Counter([("Q", "a", "b")]), ["late"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"columns": PreferenceColumnsConfig(chosen="x")},
            "no column x .preferences.columns.chosen.; there are",
        ),
        ({"format": "parquet"}, "is not a whole Parquet file"),
        ({"encoding": "nope"}, "preferences.encoding is 'nope'"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, {"prompt": "Q", "chosen": "a", "rejected": "b"}, **settings)


def test_an_answer_without_a_column_is_refused(tmp_path):
    with pytest.raises(InputError, match="no column for the rejected answer"):
        read(tmp_path, {"prompt": "Q", "chosen": "a", "worse": "b"})


def test_a_message_may_have_several_parts():
    parts = [{"type": "text", "text": "I "}, {"type": "text", "text": None}, "am", None]
    assert plain({"role": "assistant", "content": parts}) == "I am"
    assert plain({"role": "assistant", "content": None, "tool_calls": [{}]}) == ""
    assert shown(({"role": "user", "content": parts},), 9) == "[user] I…"


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n")
    with pytest.raises(InputError, match=r"no preferences in .*pairs\.csv: it holds no rows"):
        read_preferences(PreferencesConfig(path=str(path)), 0)


def test_what_is_not_there_is_refused(tmp_path):
    for path, message in (
        (tmp_path / "no.jsonl", "check preferences.path"),
        (tmp_path, "is a folder: name a file of it, or hf:FOLDER"),
        (tmp_path / "no.xyz", "preferences.path"),
    ):
        with pytest.raises(InputError, match=message):
            read_preferences(PreferencesConfig(path=str(path)), 0)


def test_what_is_held_out_or_drawn_depends_on_the_prompt_alone(tmp_path):
    rows = [{"prompt": f"Q{n}", "chosen": "a", "rejected": "b"} for n in range(60)]
    one, other = read(tmp_path, *rows).comparisons, read(tmp_path, *rows[::-1], *rows[:5]).comparisons
    for choose in (lambda c: split(c, 4)[1], lambda c: draw(c, 9, seed=3)):
        assert {c.prompt for c in choose(one)} == {c.prompt for c in choose(other)}
    assert len(draw(one, 9, seed=3)) == 9
    assert draw(one, 9, seed=3) != draw(one, 9, seed=4)
    trained, held_out = split(one, 4)
    assert 5 < len(held_out) < 25
    assert len(trained) + len(held_out) == 60
    limited = read(tmp_path, *rows, limit=9)
    assert limited.left_out == {"beyond the limit": 51}


def test_a_table_without_quoting_and_a_list_among_others_are_read_when_told(tmp_path):
    table, nested = tmp_path / "pairs.tsv", tmp_path / "pairs.json"
    table.write_text('prompt\tchosen\trejected\n"Stardust" was sung by\t Ray\t Hill\n')
    with pytest.raises(InputError, match=r"preferences\.quoting=none"):
        read_preferences(PreferencesConfig(path=str(table)), 0)
    preferences = read_preferences(PreferencesConfig(path=str(table), quoting="none"), 0)
    assert pairs_of(preferences) == Counter([('"Stardust" was sung by', " Ray", " Hill")])
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}]
    nested.write_text(json.dumps({"train": rows, "test": [rows[0] | {"rejected": "c"}]}))
    preferences = read_preferences(PreferencesConfig(path=str(nested), records="test"), 0)
    assert pairs_of(preferences) == Counter([("Q", "a", "c")])


def test_a_part_of_the_prompt_in_another_column_is_never_left_out_silently(tmp_path):
    rows = [
        {"instruction": "Translate.", "input": text, "chosen": text.upper(), "rejected": "?"}
        for text in ("one", "two")
    ]
    with pytest.raises(InputError, match=r"input is a part of the prompt .*columns\.prompt=instruction"):
        read(tmp_path, *rows)
    preferences = read(tmp_path, *rows, columns=PreferenceColumnsConfig(prompt="instruction"))
    assert pairs_of(preferences) == Counter([("Translate.", "ONE", "?"), ("Translate.", "TWO", "?")])
    blank = [row | {"input": "", "instruction": row["input"]} for row in rows]
    assert pairs_of(read(tmp_path, *blank)) == Counter([("one", "ONE", "?"), ("two", "TWO", "?")])
