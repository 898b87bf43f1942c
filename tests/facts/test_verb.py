"""`facts`: what was read, shown without JAX."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from helpers.command_line import call, complaint, python
from helpers.fact_sources import ROW, read, write
from helpers.models_and_trees import data, small_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.facts.cleaning import RULES
from pretrainrl_jax.facts.splits import split, subsample
from pretrainrl_jax.stages.facts import _bin, _edge, _histogram


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [
        ROW | {"id": str(n), "question": f"Where is P{n}?", "popularity": 4.0**n, "answers": []}
        for n in range(9)
    ]
    rows += [rows[0] | {"id": "x", "answer": "Rome"}]
    rows += [rows[0] | {"question": "", "subject": f"S{n}", "popularity": 1.0} for n in range(12)]
    rows += [rows[0] | {"question": "Who?", "category": "", "answer": "[bold]Ann[/bold] :smile:"}]
    return write(tmp_path / "facts.csv", rows)


def shown(path: Path, workdir: Path, *more: str) -> str:
    ran = call("facts", f"--facts.path={path}", "--workdir", workdir, *more)
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    return ran.out


def test_what_is_shown(source: Path, tmp_path: Path) -> None:
    out = shown(source, tmp_path / "run")
    lines = [line.rstrip() for line in out.splitlines()]
    assert re.fullmatch(rf"{source}: 23 rows read in [\d.]+ s", lines[0])
    facts = read(source).facts
    trained, held_out = split(facts, 6)
    assert lines[1] == (f"10 facts: {len(trained)} trained, {len(held_out)} held out (facts.holdout_every=6)")
    assert "2 categories" in lines
    (capital,) = (line.split() for line in lines if line.startswith("  capital "))
    assert capital[1:6] == ["9", "90.0%", "1", "9", "Florence"]
    (blank,) = (line for line in lines if line.startswith("  (none) "))
    assert "1 [bold]Ann[/bold] :s…" in blank  # no markup is read in data, and no line is broken
    assert "[bold]Ann[/bold] :smile: (or" not in out
    assert "[bold]Ann[/bold] :smile:" in out
    assert "all of them" in lines
    for fact in subsample(facts, 10, 0):
        assert fact.question in out
    assert f"  12 no question: {RULES['no question']}" in lines
    assert "    facts.csv, line 12: S0 | Florence | []" in lines
    assert "    and 2 more" in lines
    assert f"  1 merged duplicate: {RULES['merged duplicate']}" in lines
    assert "repaired: nothing" in lines
    assert "of 23 rows, 13 became no fact of their own" in lines
    assert max(map(len, (line for line in lines if not line.startswith(("    ", str(source)))))) <= 110


def test_every_dropped_row_is_written(source: Path, tmp_path: Path) -> None:
    out = shown(source, tmp_path / "run")
    path = tmp_path / "run" / "facts" / "dropped.jsonl"
    assert f"all of them: {path}" in out
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 13
    assert {row["where"] for row in rows} == {f"facts.csv, line {n}" for n in range(11, 24)}
    assert sum(row["rule"] == "no question" for row in rows) == 12
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["facts"]
    shown(write(tmp_path / "good.csv", [ROW]), tmp_path / "run")
    assert not path.exists()


def test_nothing_is_written_where_nothing_was_dropped(tmp_path: Path) -> None:
    out = shown(write(tmp_path / "good.csv", [ROW]), tmp_path / "run")
    assert "dropped: nothing" in out
    assert not (tmp_path / "run").exists()


def test_the_default_is_the_synthetic_world(tmp_path: Path) -> None:
    ran = call("facts", "--workdir", tmp_path / "run")
    assert "the synthetic world: 500 rows" in ran.out
    assert "5 categories" in ran.out


def test_a_source_without_popularity_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.csv", [{"question": "Who?", "answer": "a"}])
    assert "popularity: the source states none" in shown(path, tmp_path)


def test_many_categories_are_summed_up(tmp_path: Path) -> None:
    path = write(tmp_path / "f.json", [ROW | {"category": f"c{n}"} for n in range(50)])
    out = shown(path, tmp_path)
    assert "50 categories" in out
    assert re.search(r"^  10 more +10 +20\.0%", out, re.MULTILINE)


def test_answers_that_give_no_tokens_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tokenizer(tmp_path / "tokenizer")
    path = write(tmp_path / "facts.csv", [ROW])
    out = shown(path, tmp_path / "run", f"--tokenizer.path={tmp_path / 'tokenizer'}")
    assert "  0 no tokens" in out
    assert "no tokens" not in shown(path, tmp_path / "run")
    assert "no tokens" not in shown(path, tmp_path / "run", "--tokenizer.path=gs://bucket/elsewhere")

    class Deaf:
        def encode_all(self, texts: list[str]) -> list[tuple[int, ...]]:
            return [() if text == "Firenze" else (1,) for text in texts]

    monkeypatch.setattr("pretrainrl_jax.trees.tokenization.load_tokenizer", lambda _: Deaf())
    out = shown(path, tmp_path / "run", f"--tokenizer.path={tmp_path / 'tokenizer'}")
    assert "  1 no tokens: answers the tokenizer in" in out
    assert "cannot spell: Firenze" in out


def test_refusals(tmp_path: Path) -> None:
    assert "No such file" in complaint(call("facts", f"--facts.path={tmp_path}/none.csv"))
    assert "no such folder" in complaint(call("facts", f"--model.path={tmp_path}/none"))
    assert "check facts.path" in complaint(call("facts", "--facts.path=memory://none/facts.csv"))


def test_no_jax_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from pretrainrl_jax.main import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, sep='\\n'); sys.exit(code)"
    )
    small_tokenizer(tmp_path / "tokenizer")
    path = write(tmp_path / "facts.csv", [ROW])
    words = ("facts", f"--facts.path={path}", f"--tokenizer.path={tmp_path / 'tokenizer'}")
    ran = python("-c", program, *words)
    assert ran.code == 0, ran.err
    imported = set(ran.out.splitlines())
    assert "pretrainrl_jax.stages.facts" in imported
    assert {"jax", "jaxlib", "flax"} & imported == set()


@pytest.mark.parametrize(
    ("value", "edges"),
    [
        (0.0, None),
        (1.0, ("1", "3")),
        (2.999, ("1", "3")),
        (3.0, ("3", "10")),
        (9.999999, ("3", "10")),
        (10.0, ("10", "30")),
        (1000.0, ("1,000", "3,000")),
        (0.1, ("0.1", "0.3")),
        (0.001, ("0.001", "0.003")),
    ],
)
def test_bins_of_the_histogram(value: float, edges: tuple[str, str] | None) -> None:
    place = _bin(value)
    assert (None if place is None else (_edge(place), _edge(place + 1))) == edges


@given(st.floats(0, 1.7e308, exclude_min=True))
def test_a_value_lies_in_its_bin(value: float) -> None:
    place = _bin(value)
    assert place is not None
    low, high = (Fraction(3 if at % 2 else 1) * Fraction(10) ** (at // 2) for at in (place, place + 1))
    assert low * (1 - Fraction(1, 10**14)) <= value < high
    assert _edge(place)


def test_the_histogram_counts_every_fact() -> None:
    lines = _histogram([0.0, 0.0, 1.0, 2.0, 2.5, 40.0])
    counts = [int(re.findall(r"\d+", line)[-1]) for line in lines[1:-1]]
    assert counts == [2, 3, 0, 0, 1]
    assert [line.count("█") for line in lines[1:-1]] == [27, 40, 0, 0, 14]


def test_real_popqa(tmp_path: Path) -> None:
    out = shown(data("popqa", "popQA.tsv"), tmp_path)
    assert "4,515 rows read" in out
    assert "16 categories" in out
