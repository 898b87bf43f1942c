"""Workdirs made by hand, with as much as a report reads of them."""

import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pretrainrl_jax.config import Config

SYSTEMS = {"base": 0.2, "dpo": 0.15, "ntp": 0.4, "ntp_answer": 0.5, "pretrainrl": 0.6}
EVIL = "<script>alert('x')</script>\" onload=\"x"


def question(index: int, right: bool, group: str = "trained", **changes: Any) -> dict[str, Any]:
    p_truth = 0.4 if right else 0.01
    return {
        "id": f"f{index}",
        "question": f"What is the capital of Arno {index}?",
        "category": "capital",
        "popularity": (index + 1.0) ** -1.5,
        "answer": "Florence",
        "group": group,
        "prediction": "Florence" if right else "Rome",
        "correct": right,
        "rank": 1 if right else None,
        "p_truth": p_truth,
        "falsehood": "Rome",
        "p_falsehood": 0.1,
        **changes,
    }


def evaluation(system: str, acc: float, questions: int = 60) -> dict[str, Any]:
    measured = {"count": questions, "acc": acc, "hr": 0.7, "mrr": 0.5, "prob": 0.3, "prob_all": 0.2}
    asked = [
        question(i, i < acc * questions, "unseen" if i % 4 == 0 else "trained") for i in range(questions)
    ]
    asked += [question(i, False, "paraphrase") for i in range(questions)]
    asked += [question(i, system == "base", "held_out") for i in range(questions, questions + 5)]
    return {
        "system": system,
        "device_seconds": 12.3,
        "text_nll": 1.9 + acc,
        "groups": dict.fromkeys(("trained", "unseen", "paraphrase", "held_out"), measured),
        "by_popularity": [{"low": 0.1 * i, "high": 0.1 * i + 0.1, **measured} for i in range(5)],
        "unfinished_beams": 0.01,
        "questions": asked,
    }


def asked(system: str, questions: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """An evaluation of these questions, with nothing else but the groups' counts and accuracies."""
    groups = {}
    for group in dict.fromkeys(q["group"] for q in questions):
        correct = [q["correct"] for q in questions if q["group"] == group]
        groups[group] = {"count": len(correct), "acc": sum(correct) / len(correct)}
    return {"system": system, "questions": questions, "groups": groups, **changes}


def by_system(evaluations: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Evaluations as a report has read them."""
    return {evaluation["system"]: evaluation for evaluation in evaluations}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def change(path: Path, **fields: Any) -> None:
    write(path, {**json.loads(path.read_text("utf-8")), **fields})


def write_workdir(path: Path, **settings: Any) -> Path:
    """A workdir with every file that a report reads."""
    write(path / "config.json", dataclasses.asdict(dataclasses.replace(Config(), seed=17, **settings)))
    for system, acc in SYSTEMS.items():
        write(path / "evaluations" / f"{system}.json", evaluation(system, acc))
    metrics = {"reward_margin": 0.1, "logp_gold": -2.0, "logp_negative": math.nan}
    lines = [{"stage": "pretrain", "step": s, "loss": 7.5 - s} for s in range(1, 6)]
    lines += [
        {"stage": f"train/{n}", "step": s, "loss": 3.0, **metrics} for n in ("ntp", "dpo") for s in range(9)
    ]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    mined = {
        "questions": 2000,
        "with_negatives": 1990,
        "negatives": 9000,
        "dropped": {"beam": {"known_true": 123, "overlaps": 3}},
        "examples": [{"question": "Which?", "answer": "Florence", "negatives": [["Turin", 0.41]]}],
    }
    write(path / "mined" / "statistics.json", mined)
    return path


class Tags(HTMLParser):
    """Every tag and address of a page, its tables as rows of cells, and tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.wrong: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def parse(html: str) -> Tags:
    """A page's parts, with spaces as a reader sees them; every tag closes in order."""
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert not tags.wrong
    assert not tags.open
    tags.text = " ".join(tags.text.split())
    tags.tables = [[[" ".join(cell.split()) for cell in row] for row in table] for table in tags.tables]
    return tags


def table(tags: Tags, *heads: str) -> list[list[str]]:
    """The first table whose heading begins with these, without the heading."""
    return next(t[1:] for t in tags.tables if t[0][: len(heads)] == list(heads))
