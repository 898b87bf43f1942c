"""The mining part of the page: its numbers are those of the files, and no file can break it."""

import copy
import dataclasses
import html as entities
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pretrainrl_jax.config import OBJECTIVES, Config
from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import known_truths
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining import statistics
from pretrainrl_jax.mining.candidates import REASONS, Rules, from_beams
from pretrainrl_jax.mining.pools import Agreement
from pretrainrl_jax.report import charts, mining
from pretrainrl_jax.report.columns import listed
from pretrainrl_jax.report.mining import COLUMNS, FIGURES, Mined, read, section
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
        "": {
            "questions": 1200,
            "without_negatives": 4,
            "distinct_answers": None,
            "entropy": None,
            "falsehoods": [{"text": "Rome", "questions": 3, "probability": 0.5}],
            "pool": [],
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

BAD: list[Any] = [
    None,
    "text",
    -3,
    math.nan,
    True,
    [],
    [None],
    ["x", ["y"]],
    {},
    {"a": None},
    {"": {"b": "c"}},
]


class Cells(HTMLParser):
    """Text of the page: tables as rows of cells, chips, what stands in <bdi>, and tags out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.chips: list[str] = []
        self.isolated: list[str] = []
        self.tags: set[str] = set()
        self.wrong: list[str] = []
        self._open: list[tuple[str, str]] = []
        self._text: list[str] = []  # of the open elements, each with what is inside it

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag not in ("meta", "img", "br"):
            self._open.append((tag, dict(attrs).get("class") or ""))
            self._text.append("")

    def handle_data(self, data: str) -> None:
        self._text = [text + data for text in self._text]

    def handle_endtag(self, tag: str) -> None:
        opened, kind = self._open.pop() if self._open else ("", "")
        if opened != tag:
            self.wrong.append(tag)
        text = " ".join(self._text.pop().split()) if self._text else ""
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text)
        if tag == "bdi":
            self.isolated.append(text)
        if kind == "chip":
            self.chips.append(text)


def parse(html: str) -> Cells:
    cells = Cells()
    cells.feed(html)
    cells.close()
    assert not cells.wrong
    return cells


def table(cells: Cells, heading: str) -> list[list[str]]:
    """The table whose first heading is this."""
    return next(t for t in cells.tables if t[0][0] == heading)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """As little else as a report needs, so that a page takes no time."""
    write(tmp_path / "config.json", dataclasses.asdict(Config()))
    write(tmp_path / "evaluations" / "base.json", {"system": "base", "questions": []})
    write(tmp_path / "mined" / "statistics.json", FOUND)
    return tmp_path


def page(workdir: Path) -> str:
    return write_report(workdir).read_text("utf-8")


def changed(*path: str, value: Any) -> dict[str, Any]:
    """The statistics with one entry replaced, or, by the value `changed` itself, taken away."""
    altered = copy.deepcopy(FOUND)
    at = altered
    for key in path[:-1]:
        at = at[key]
    if value is changed:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return altered


def test_every_filter_of_every_source_stands_in_the_table(workdir: Path) -> None:
    rows = table(parse(page(workdir)), "candidates taken, and why")
    assert rows == [
        ["candidates taken, and why", "own beams", "popular answers"],  # the pool gave and lost nothing
        [f"known true: {REASONS['known_true']}", "1,234", "56"],
        [f"beyond count: {REASONS['beyond_count']}", "77", "0"],
        ["kept as negatives", "8,000", "1,795"],
    ]


def test_the_figures_are_those_of_the_file(workdir: Path) -> None:
    assert listed(FIGURES, FOUND) == [
        ("questions", "2,000"),
        ("no negative left", "40"),
        ("no negative left,\u00a0%", "2.0"),
        ("with negatives", "1,959"),
        ("each has", "5.0"),
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
    told = dict(listed(FIGURES, FOUND | less | {"without_negatives": 0, "of_examples": 0.015}))
    assert told["no negative left"] == "0"
    assert told["answers of few-shot examples, %"] == "1.5"
    assert told["left out: no tokens in a true answer"] == "1"
    assert not {name for name in told if name.startswith(("pool", "perplexity", "left out: longer"))}


def test_categories_with_twenty_falsehoods_each(workdir: Path) -> None:
    html = page(workdir)
    head, uncategorised, first_said, second, second_said = table(parse(html), "category")
    # The larger category first; only columns that a category has.
    no_spearman = [head for head in COLUMNS if "Spearman" not in head]
    assert head == ["category", *(" ".join(h.split()) for h in no_spearman)]
    assert uncategorised == ["(no category)", "1,200", "0.3", "–", "–", "–"]
    assert first_said == ["Rome 3 · 50.0%"]
    assert "“<bdi>Which river &lt;flows&gt; there?</bdi>”" in html
    assert second == ["river", "800", "4.5", "5.5", "0.91", "0.91"]
    said = [f"falsehood {i} {300 - i} · {25 / (i + 1):.1f}%" for i in range(20)]
    assert [c for c in parse(html).chips if c.startswith("falsehood")] == said
    # Three are seen before the rest and the pool are opened; the other category has nothing to open.
    (details,) = re.findall(r"<details>(.*?)</details>", html, re.DOTALL)
    summary, rest = details.split("</summary>")
    assert [text in summary for text in ("falsehood 0<", "falsehood 2<", "falsehood 3<")] == [
        True,
        True,
        False,
    ]
    assert "17 more and the pool's 2 values" in summary
    assert [text in rest for text in ("falsehood 2<", "falsehood 3<", "falsehood 19<", ">arno<")] == [
        False,
        True,
        True,
        True,
    ]
    assert all(text in second_said[0] for text in ("falsehood 19", "In the pool: po arno"))


def test_only_the_largest_of_many_categories_are_shown(workdir: Path) -> None:
    river = FOUND["categories"]["river"]
    many = {f"c{i}": river | {"questions": i} for i in range(mining.CATEGORIES + 5)}
    write(workdir / "mined" / "statistics.json", FOUND | {"categories": many})
    html = page(workdir)
    rows = [row for row in table(parse(html), "category")[1:] if len(row) > 1]
    assert [int(row[1]) for row in rows] == list(range(mining.CATEGORIES + 4, 4, -1))
    assert "5 smaller categories are not shown" in html


def test_examples_say_how_many_more_there_are(workdir: Path) -> None:
    (row,) = table(parse(page(workdir)), "question")[1:]
    assert row[:2] == ["Which?", "Arno"]
    assert row[2].startswith("wrong 0 40.0% wrong 1 20.0%")
    assert row[2].endswith("3 more")
    assert "wrong 8" not in row[2]


def test_the_picture_of_distinct_answers(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alt = "Questions by their number of distinct answers, from 9 to 10; "
    alt += "9 is the most frequent, with 1,470 questions"
    html = page(workdir)
    assert re.search(rf'<img src="data:image/svg\+xml;base64,[^"]+" alt="{alt}">', html)
    from matplotlib.axes import Axes

    drawn: list[Any] = []
    bar = Axes.bar

    def record(self: Axes, x: Any, height: Any, **more: Any) -> Any:
        drawn.append((x, height))
        return bar(self, x, height, **more)

    monkeypatch.setattr(Axes, "bar", record)
    assert section(Mined(FOUND, {}), KNOWN)
    assert drawn == [([9, 10], [1470, 30])]  # numbers, not text: 9 is before 10
    assert charts.diversity({}) is None
    assert charts.diversity({4: 1})


def test_text_is_escaped_and_isolated(workdir: Path) -> None:
    evil, rtl = "<script>alert('x')</script>\" onload=\"x", "روما"
    texts = [{"text": f"{t}{i}", "questions": 2, "probability": 0.5} for t in (evil, rtl) for i in range(4)]
    category = {**FOUND["categories"]["river"], "falsehoods": texts, "pool": [evil, rtl]}
    described = FOUND | {
        "categories": {evil: category, rtl: category},
        "dropped": {evil: {evil: 3, rtl: 2}},
        "by_source": {evil: 3},
        "examples": [{"question": t, "answer": t, "negatives": [[t, 0.5]]} for t in (evil, rtl)],
    }
    write(workdir / "mined" / "statistics.json", described)
    write(workdir / "mined" / rtl / "round1.json", described)
    html = page(workdir)
    cells = parse(html)
    assert "script" not in cells.tags
    # A category, falsehoods and pools of two, a source twice and beside its three numbers, a reason, an
    # example in three parts.
    assert entities.unescape(html).count(evil) == 1 + 2 * 4 + 2 + 2 + 3 + 1 + 3
    # Every right-to-left text stands in a <bdi> of its own.
    assert html.count(f"<bdi>{rtl}") == html.count(rtl) == 1 + 2 * 4 + 2 + 1 + 3 + 1  # the last is a system


def test_rounds_of_mining_again(workdir: Path) -> None:
    for system, scale in (("pretrainrl", 100), ("dpo", 1)):
        for number in (1, 2, 10):
            counts = {"questions": 50, "without_negatives": number, "negatives": scale * number}
            write(
                workdir / "mined" / system / f"round{number}.json",
                counts | {"entropy": 0.5, "distinct_answers": 3},
            )
    (workdir / "mined" / "dpo" / "round2.json").write_text("{", "utf-8")
    write(workdir / "mined" / "dpo" / "rounds.json", {})
    html = page(workdir)
    assert re.findall(r"Mined again while training: <bdi>(.*)</bdi>", html) == ["DPO alone", "PretrainRL"]
    dpo, pretrainrl = (t for t in parse(html).tables if t[0][0] == "round")
    base = ["base model", "9,795", "7.3", "1.24", "2.0"]
    assert dpo[0] == ["round", "negatives", "distinct answers", "entropy, nats", "no negative left, %"]
    assert dpo[1:] == [base, ["1", "1", "3.0", "0.50", "2.0"], ["10", "10", "3.0", "0.50", "20.0"]]
    assert [row[:2] for row in pretrainrl[2:]] == [["1", "100"], ["2", "200"], ["10", "1,000"]]
    (workdir / "mined" / "statistics.json").unlink()
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
    cells = parse(html)
    assert table(cells, "candidates taken, and why")[1:] == [
        [f"duplicate: {REASONS['duplicate']}", "1"],
        [f"known true: {REASONS['known_true']}", "2"],
        ["kept as negatives", "2"],
    ]
    # Distinct answers 2, 1 and 1; entropy of (2/3, 1/3), 0 and 0; a third of the questions without negatives.
    entropy = (math.log(3) - 2 / 3 * math.log(2)) / 3
    assert table(cells, "category")[1] == ["capital", "3", "33.3", "1.3", f"{entropy:.2f}", "0.50"]
    assert "Turin 2 · 37.5%" in cells.chips
    perplexity = math.exp(-(math.log(0.5) + math.log(0.25)) / 4)
    told = dict(re.findall("<dt>(.*)</dt><dd><bdi>(.*)</bdi></dd>", html))
    assert told["perplexity of the negatives"] == f"{perplexity:.1f}"
    assert told["pool: cosine"] == "0.50"
    assert "pool: Spearman" not in told  # a correlation that is not defined is not named
    assert [told[name] for name in ("questions", "with negatives", "negatives")] == ["3", "2", "2"]


KEYS = [(key,) for key in FOUND] + [("categories", "river", key) for key in FOUND["categories"]["river"]]
KEYS += [("categories", "river"), ("dropped", "beam"), ("pool_agreement", "cosine")]
KEYS += [("categories", "river", "agreement", "cosine"), ("dropped", "beam", "known_true")]


@pytest.mark.parametrize("key", KEYS, ids="/".join)
def test_missing_or_odd_parts_are_left_out(
    workdir: Path, key: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "diversity", lambda counts: "data:image/svg+xml;base64," if counts else None)
    for value in [changed, *BAD]:
        write(workdir / "mined" / "statistics.json", changed(*key, value=value))
        write(workdir / "mined" / "pretrainrl" / "round1.json", changed(*key, value=value))
        html = page(workdir)
        parse(html)
        mined = html[html.index("<h2>Mined falsehoods") :]
        mined = re.sub(r"<[^>]*>", " ", mined[: mined.index("</section>")])
        assert not re.search(r"\b(nan|None|inf|True|Undefined)\b", mined), (key, value)
        # The rest of the section is still there.
        assert "By category" in mined or key == ("categories",)
        assert "What the filters took" in mined or key == ("dropped",)


@pytest.mark.parametrize("odd", BAD)
def test_odd_lists_within_a_category_and_an_example(odd: Any) -> None:
    category = {**FOUND["categories"]["river"], "falsehoods": [odd, {"text": odd}], "pool": [odd]}
    contents = section(
        Mined(
            FOUND
            | {"categories": {"river": category}, "examples": [odd, {"question": "?", "negatives": [odd]}]},
            {},
        ),
        KNOWN,
    )
    assert contents is not None
    texts = {"text"} if odd == "text" else set()
    assert {text for text, _, _ in contents["categories"]["rows"][0]["falsehoods"]} == texts
    assert set(contents["categories"]["rows"][0]["pool"]) == texts
    said = [[("x", "–")]] if odd == ["x", ["y"]] else []
    assert [example["negatives"] for example in contents["examples"]] == said


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\udcff", '{"questions": 3}', '{"dropped": {"overlaps": 3}}']
)
def test_a_file_that_says_nothing_leaves_the_section_out(workdir: Path, text: str) -> None:
    (workdir / "mined" / "statistics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "Nothing was mined in this workdir, or its statistics cannot be read." in page(workdir)


def test_read_without_a_folder(tmp_path: Path) -> None:
    assert read(tmp_path / "mined") == Mined(None, {})
    assert section(Mined(None, {}), KNOWN) is None
