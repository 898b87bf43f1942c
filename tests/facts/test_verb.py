"""`facts`: what was read, shown without JAX."""

import json
import re
from pathlib import Path

import pytest
from helpers.command_line import call, complaint, python
from helpers.fact_sources import ROW, read, write
from helpers.models_and_trees import data, small_tokenizer

from pretrainrl_jax.facts.cleaning import RULES
from pretrainrl_jax.facts.splits import split, subsample
from pretrainrl_jax.stages.facts import _histogram


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
    assert lines[0] == f"{source}: 23 rows read"
    facts = read(source).facts
    trained, held_out = split(facts, 6)
    assert lines[1] == (f"10 facts: {len(trained)} trained, {len(held_out)} held out (facts.holdout_every=6)")
    assert "categories: 2" in lines
    (capital,) = (line.split() for line in lines if line.startswith("  capital "))
    assert capital[1:6] == ["9", "90.0%", "1", "9", "Florence"]
    (blank,) = (line for line in lines if line.startswith("  (none) "))
    assert "1 [bold]Ann[/bold] :s" in blank
    assert out.count("[bold]Ann[/bold] :smile:\n") == 1  # no markup is read in data
    assert "popularity: 1 to 65,536" in lines
    for fact in subsample(facts, 10, 0):
        assert fact.question in out
    assert f"  12 no question: {RULES['no question']}" in lines
    assert "    facts.csv, line 12: S0 | Florence | []" in lines
    assert "    and 2 more" in lines
    assert f"  1 merged duplicate: {RULES['merged duplicate']}" in lines
    assert "repaired: nothing" in lines
    assert "of 23 rows, 13 became no fact of their own" in lines


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
    assert "categories: 5" in ran.out


def test_a_source_without_popularity_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.csv", [{"question": "Who?", "answer": "a"}])
    assert "popularity: the source states none" in shown(path, tmp_path)


def test_many_categories_are_summed_up(tmp_path: Path) -> None:
    path = write(tmp_path / "f.json", [ROW | {"category": f"c{n}"} for n in range(50)])
    out = shown(path, tmp_path)
    assert "categories: 50" in out
    assert "  and 10 more, of 10 facts" in out


def test_refusals(tmp_path: Path) -> None:
    assert "No such file" in complaint(call("facts", f"--facts.path={tmp_path}/none.csv"))
    assert "no such folder" in complaint(call("facts", f"--model.path={tmp_path}/none"))
    assert "check facts.path" in complaint(call("facts", "--facts.path=memory://none/facts.csv"))
    path = write(tmp_path / "facts.csv", [ROW])
    said = complaint(call("facts", f"--facts.path={path}", "--workdir", path))
    assert f"cannot write to --workdir={path}: Not a directory" in said


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
        (0.0, "0"),
        (1.0, "1 to 3"),
        (2.999, "1 to 3"),
        (3.0, "3 to 10"),
        (9.999999, "3 to 10"),
        (10.0, "10 to 30"),
        (1000.0, "1,000 to 3,000"),
        (1e6, "1,000,000 to 3,000,000"),
        (0.1, "0.1 to 0.3"),
        (0.001, "0.001 to 0.003"),
        (1.7e308, "1e+308 to inf"),
    ],
)
def test_bins_of_the_histogram(value: float, edges: str) -> None:
    (line, *_) = _histogram([value, max(value, 5e-5)])[1:]
    assert re.split(" {2,}", line.strip())[0] == edges


def test_the_histogram_counts_every_fact() -> None:
    head, *lines, blank = _histogram([0.0, 0.0, 1.0, 2.0, 2.5, 40.0])
    assert (head, blank) == ("popularity: 0 to 40", "")
    assert [line.split("to")[0].split()[0] for line in lines] == ["0", "1", "3", "10", "30"]
    counts = [int(re.findall(r"\d+", line)[-1]) for line in lines]
    assert counts == [2, 3, 0, 0, 1]
    assert [line.count("█") for line in lines] == [27, 40, 0, 0, 14]


def test_real_popqa(tmp_path: Path) -> None:
    out = shown(data("popqa", "popQA.tsv"), tmp_path)
    assert "4,515 rows read" in out
    assert "categories: 16" in out
