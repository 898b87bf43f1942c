"""The mining part of the page: its numbers are those of the files."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.made_workdirs import EVIL, parse, table, write

from pretrainrl_jax.config import OBJECTIVES, Config
from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import known_truths
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining import statistics
from pretrainrl_jax.mining.candidates import REASONS, Rules, from_beams
from pretrainrl_jax.mining.pools import Agreement
from pretrainrl_jax.report import mining
from pretrainrl_jax.report.columns import listed
from pretrainrl_jax.report.mining import FIGURES, Mined, read, section
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.trees.tree import AnswerTree, Branch

KNOWN = Systems(OBJECTIVES)

FOUND: dict[str, Any] = {
    "too_long": ["f7"],
    "no_tokens": [],
    "encoded_separately": 0,
    "questions": 2000,
    "trees": 1999,
    "decoded": 1500,
    "without_negatives": 40,
    "with_negatives": 1959,
    "negatives": 9795,
    "by_source": {"popularity": 1795, "beam": 8000},
    "dropped": {
        "beam": {**dict.fromkeys(REASONS, 0), "known_true": 1234, "beyond_count": 77},
        "pool": dict.fromkeys(REASONS, 0),
        "popularity": {**dict.fromkeys(REASONS, 0), "known_true": 56},
    },
    "distinct_answers": 7.26,
    "distinct_histogram": {"10": 30, "9": 1470},
    "entropy": 1.237,
    "perplexity": 8.3645,
    "categories": {
        "": {
            "questions": 1200,
            "without_negatives": 4,
            "distinct_answers": None,
            "entropy": None,
            "falsehoods": [{"text": "Rome", "questions": 3, "probability": 0.5}],
            "pool": [],
        },
        "river": {
            "questions": 800,
            "without_negatives": 36,
            "distinct_answers": 5.54,
            "entropy": 0.913,
            "falsehoods": [
                {"text": f"falsehood {i}", "questions": 300 - i, "probability": 0.25 / (i + 1)}
                for i in range(20)
            ],
            "pool": ["po", "arno"],
            "example": "Which river <flows> there?",
            "agreement": {"questions": 100, "of": 800, "cosine": 0.912, "spearman": None},
        },
    },
    "pool_agreement": {"questions": 100, "categories": 1, "cosine": 0.912, "spearman": 0.733},
    "examples": [
        {
            "question": "Which?",
            "answer": "Arno",
            "negatives": [[f"wrong {i}", 0.4 / (i + 1)] for i in range(11)],
        }
    ],
}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """As little else as a report needs, so that a page takes no time."""
    write(tmp_path / "config.json", dataclasses.asdict(Config()))
    write(tmp_path / "evaluations" / "base.json", {"system": "base", "questions": []})
    write(tmp_path / "mined" / "statistics.json", FOUND)
    return tmp_path


def page(workdir: Path) -> str:
    return write_report(workdir).read_text("utf-8")


def test_every_filter_of_every_source_stands_in_the_table(workdir: Path) -> None:
    tags = parse(page(workdir))
    assert next(t for t in tags.tables if t[0][0] == "candidates taken, and why") == [
        ["candidates taken, and why", "own beams", "popular answers"],  # the pool gave and lost nothing
        [f"known true: {REASONS['known_true']}", "1,234", "56"],
        [f"beyond count: {REASONS['beyond_count']}", "77", "0"],
        ["kept as negatives", "8,000", "1,795"],
    ]


def test_the_figures_are_those_of_the_file(workdir: Path) -> None:
    assert listed(FIGURES, FOUND) == [
        ("questions", "2,000"),
        ("no negative left,\u00a0%", "2.0"),
        ("with negatives", "1,959"),
        ("negatives", "9,795"),
        ("by source", "8,000 own beams, 1,795 popular answers"),
        ("perplexity of the negatives", "8.4"),
        ("questions decoded", "1,500"),
        ("distinct answers", "7.3"),
        ("entropy, nats", "1.24"),
        ("pool: cosine", "0.91"),
        ("pool: Spearman", "0.73"),
        ("pool: questions", "100"),
        ("pool: categories", "1"),
        ("left out: longer than a row", "1"),
    ]
    html = page(workdir)
    for name, value in listed(FIGURES, FOUND):
        assert f"<dt>{name}</dt><dd><bdi>{value}</bdi></dd>" in html
    assert "0.88 and 0.85 for 1,000 questions of EntityQuestions" in html
    less = {"too_long": [], "pool_agreement": None, "decoded": 0, "perplexity": None, "no_tokens": ["f"]}
    told = dict(listed(FIGURES, FOUND | less | {"of_examples": 0.015}))
    assert told["answers of few-shot examples, %"] == "1.5"
    assert told["left out: no tokens in a true answer"] == "1"
    assert not {name for name in told if name.startswith(("pool", "perplexity", "left out: longer"))}


def test_categories_and_their_falsehoods(workdir: Path) -> None:
    rows = table(parse(page(workdir)), "category", "commonest falsehoods")
    said = [f"falsehood {i} ({300 - i} · {25 / (i + 1):.1f}%)" for i in range(mining.SHOWN)]
    assert rows == [
        ["(no category)", "Rome (3 · 50.0%)", "1,200", "0.3", "–", "–", "–"],
        ["river", "more".join(map(", ".join, (said[:8], said[8:]))), "800", "4.5", "5.5", "0.91", "0.91"],
    ]
    assert len(said) == 20


def test_examples_of_questions(workdir: Path) -> None:
    (row,) = table(parse(page(workdir)), "question", "truth", "falsehoods")
    assert row[:2] == ["Which?", "Arno"]
    assert row[2].startswith("wrong 0 (40.0%), wrong 1 (20.0%)")
    assert "%)morewrong 8 (" in row[2]


def test_text_is_escaped_and_isolated(workdir: Path) -> None:
    rtl = "روما"
    texts = [{"text": f"{t}{i}", "questions": 2, "probability": 0.5} for t in (EVIL, rtl) for i in range(4)]
    category = {**FOUND["categories"]["river"], "falsehoods": texts}
    described = FOUND | {
        "categories": {EVIL: category, rtl: category},
        "dropped": {EVIL: {EVIL: 3, rtl: 2}},
        "by_source": {EVIL: 3},
        "examples": [{"question": t, "answer": t, "negatives": [[t, 0.5]]} for t in (EVIL, rtl)],
    }
    write(workdir / "mined" / "statistics.json", described)
    write(workdir / "mined" / rtl / "round1.json", described)
    tags = parse(page(workdir))
    assert "script" not in tags.tags
    # A category, falsehoods of two, a source twice and beside its three numbers, a reason, an example in
    # three parts.
    assert tags.text.count(EVIL) == 1 + 2 * 4 + 2 + 1 + 3


def test_rounds_of_mining_again(workdir: Path) -> None:
    for system, scale in (("pretrainrl", 100), ("dpo", 1)):
        for number in (1, 2, 10):
            counts = {"questions": 50, "without_negatives": number, "negatives": scale * number}
            write(
                workdir / "mined" / system / f"round{number}.json",
                counts | {"entropy": 0.5, "distinct_answers": 3},
            )
    html = page(workdir)
    assert re.findall(r"Mined again while training: ([^<]*)<", html) == ["DPO alone", "PretrainRL"]
    dpo, pretrainrl = (t for t in parse(html).tables if t[0][0] == "round")
    base = ["base model", "9,795", "7.3", "1.24", "2.0"]
    assert dpo[0] == ["round", "negatives", "distinct answers", "entropy, nats", "no negative left, %"]
    assert dpo[1:3] == [base, ["1", "1", "3.0", "0.50", "2.0"]]
    assert [row[:2] for row in pretrainrl[2:]] == [["1", "100"], ["2", "200"], ["10", "1,000"]]
    (workdir / "mined" / "statistics.json").unlink()
    write(workdir / "mined" / "dpo" / "round1 (copy).json", {"negatives": 7})  # what nobody here has made
    assert "Mined again while training" in page(workdir)


def test_what_mining_writes_is_what_the_page_reads(workdir: Path) -> None:
    """Statistics of `describe`, against counts made here from the same answers."""
    said = {
        "f0": [("Turin", 0.5), ("Rome", 0.25)],
        "f1": [("Turin", 0.25), ("turin", 0.2)],
        "f2": [("Rome", 0.1)],
    }
    facts = [Fact(i, f"{i}?", ("Rome",), "capital", i, i, 1.0, 0) for i in said]
    decoded = [(f, [Answer(t, (1,), math.log(p), score=math.log(p)) for t, p in said[f.id]]) for f in facts]
    rules, dropped = Rules(known_truths(facts), True), {"beam": dict.fromkeys(REASONS, 0)}
    counter = statistics.Counter(dropped["beam"])
    trees = [
        AnswerTree(
            fact.id,
            (1,),
            (
                Branch((1, 2), "chosen", "Rome"),
                *(
                    Branch((1, 2), "rejected", c.text, reference_logp=c.logp, source="beam")
                    for c in from_beams(answers, "beam", fact, rules, counter)
                ),
            ),
        )
        for fact, answers in decoded
    ]
    like = {"capital": Agreement(2, 3, 0.5, math.nan)}
    described = statistics.describe(
        facts, trees, decoded, rules.known, {"beam": counter}, {"capital": ["turin"]}, like
    )
    write(workdir / "mined" / "statistics.json", described)
    html = page(workdir)
    tags = parse(html)
    assert table(tags, "candidates taken, and why") == [
        [f"duplicate: {REASONS['duplicate']}", "1"],
        [f"known true: {REASONS['known_true']}", "2"],
        ["kept as negatives", "2"],
    ]
    # Distinct answers 2, 1 and 1; entropy of (2/3, 1/3), 0 and 0; a third of the questions without negatives.
    entropy = (math.log(3) - 2 / 3 * math.log(2)) / 3
    (row,) = table(tags, "category")
    assert row[2:] == ["3", "33.3", "1.3", f"{entropy:.2f}", "0.50"]
    assert "Turin (2 · 37.5%)" in row[1]
    perplexity = math.exp(-(math.log(0.5) + math.log(0.25)) / 4)
    told = dict(re.findall("<dt>(.*?)</dt><dd><bdi>(.*?)</bdi></dd>", html))
    assert told["perplexity of the negatives"] == f"{perplexity:.1f}"
    assert told["pool: cosine"] == "0.50"
    assert "pool: Spearman" not in told  # a correlation that is not defined is not named
    assert [told[name] for name in ("questions", "with negatives", "negatives")] == ["3", "2", "2"]


@pytest.mark.parametrize("key", [*FOUND, "falsehoods", "agreement"])
def test_what_an_older_version_did_not_record_is_left_out(workdir: Path, key: str) -> None:
    older = {k: v for k, v in FOUND.items() if k != key}
    if "categories" in older:
        older["categories"] = {
            name: {k: v for k, v in own.items() if k != key} for name, own in older["categories"].items()
        }
    write(workdir / "mined" / "statistics.json", older)
    write(workdir / "mined" / "pretrainrl" / "round1.json", older)
    html = page(workdir)
    mined = parse(html[html.index("<h2>Mined falsehoods") :].split("</section>")[0])
    assert not re.search(r"\b(nan|None|inf|True|Undefined)\b", mined.text)
    assert "By category" in mined.text or key == "categories"
    assert "What the filters took" in mined.text or key == "dropped"


def test_a_file_that_cannot_be_read_is_refused(workdir: Path) -> None:
    (workdir / "mined" / "statistics.json").write_text("{", "utf-8")
    with pytest.raises(InputError, match=r"statistics\.json cannot be read"):
        page(workdir)


def test_nothing_was_mined(tmp_path: Path) -> None:
    assert read(tmp_path / "mined") == Mined(None, {})
    assert section(Mined(None, {}), KNOWN) is None
