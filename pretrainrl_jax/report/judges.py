"""What a bench of judges found: its table for a terminal, its page, its picture, its numbers."""

import itertools
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pretrainrl_jax.atomic import write_bytes, write_text
from pretrainrl_jax.report.columns import (
    Cell,
    Sheet,
    Told,
    at,
    figure,
    in_percent,
    markdown,
    plain,
    rate,
    sheet,
)
from pretrainrl_jax.report.drawing import LOOKS, PNG, SVG, canvas, data_address, painted
from pretrainrl_jax.report.formats import Json, decimals, percent
from pretrainrl_jax.report.page import template


def write_judges(workdir: Path, told: Json) -> Path:
    """Write `judges/judges.json`, `judges.md`, `judges.png` and `index.html`; gives the path of the page."""
    folder = workdir / "judges"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "judges.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    write_text(folder / "judges.md", in_markdown(told))
    png, svg = picture(told)
    write_bytes(folder / "judges.png", png)
    parts = {part: rows for part in told["items"] if (rows := rows_of(told, part))}
    page = template("judges.html.j2").render(
        told=told,
        picture=data_address(svg),
        parts=parts,
        sheets={part: _sheet(COLUMNS, rows) for part, rows in parts.items()},
        agreement={part: _agreement(rows, told["agreement"][part]) for part, rows in parts.items()},
        kinds={part: _kinds(rows) for part, rows in parts.items()},
        attacked=_attacked(told),
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def rows_of(told: Json, part: str) -> list[Json]:
    """The rows of a part, as they were asked."""
    return [row for row in told["rows"] if row["part"] == part]


def obeyed(ways: Iterable[Json]) -> str:
    """Percent right without orders, and with them."""
    ways = list(ways)
    count = sum(way["count"] for way in ways)
    before, after = (100 * sum(way[name] for way in ways) / (count or 1) for name in ("before", "after"))
    return f"{before:.0f} → {after:.0f}" if count else ""


COLUMNS: dict[str, Told] = {
    "right\n%": lambda row: rate({"value": row["right"], "interval": row["interval"]}),
    "κ": at(partial(figure, places=2), "kappa"),
    "ranks\n%": at(in_percent, "ranks"),
    "none\n%": lambda row: in_percent(row["undecided"]) if row["undecided"] else "",
    "first\n%": at(in_percent, "first"),
    "orders\ndiffer %": at(in_percent, "orders_differ"),
    "longer\n%": at(in_percent, "longer"),
    "with orders\nright %": lambda row: obeyed(row["orders"].values()),
    "s a\nverdict": at(figure, "seconds"),
    "cost of\n1,000": lambda row: decimals(1000 * row["cost"], 2) if row.get("cost") else "",
}


def _sheet(columns: Mapping[str, Told], rows: Iterable[Json], *words: str) -> Sheet:
    words = words or ("judge", "prompt")
    return sheet(columns, [[*(row[word] for word in words), row] for row in rows], *words)


def table(told: Json) -> str:
    """A table for each part, and one of texts that give orders, for a terminal."""
    parts: list[str | Sheet] = []
    for part, count in told["items"].items():
        if rows := rows_of(told, part):
            guess = percent(told["guessing"][part])
            parts.append(f"{part}: {count:,} labelled texts; one verdict for all is right in {guess}")
            parts.append(_sheet(COLUMNS, rows).opened())
    if attacked := _attacked(told):
        parts += ["texts that give orders: % right without → with them", attacked]
    return plain(*parts, width=120, words=(22, 26))


def in_markdown(told: Json) -> str:
    """The same as one table of Markdown."""
    made = _sheet(COLUMNS, told["rows"], "judge", "part", "prompt").opened()
    return markdown(made.heads, made.texts())


def _agreement(rows: list[Json], values: list[list[float | None]]) -> Sheet | None:
    """Cohen's kappa of each two rows; None where there is one alone."""
    several = len({row["judge"] for row in rows}) > 1
    names = [f"{row['judge']}: {row['prompt']}" if several else row["prompt"] for row in rows]
    made = [
        [Cell(name), *(Cell(figure(value, 2)) for value in own)]
        for name, own in zip(names, values, strict=True)
    ]
    return Sheet(["κ with", *names], made) if len(rows) > 1 else None


def _kinds(rows: list[Json]) -> Sheet | None:
    """The accuracy by the labels' kinds; None where the file names none."""
    counts = {kind: own["count"] for row in reversed(rows) for kind, own in row["kinds"].items()}
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    columns = {f"{k or 'others'} ({counts[k]})": at(in_percent, "kinds", k, "right") for k in kinds}
    return _sheet(columns, rows) if any(kinds) else None


def _attacked(told: Json) -> Sheet | None:
    """Texts that give orders, by the way they do; None where none did."""
    rows = [row for row in told["rows"] if row["orders"]]
    ways = dict.fromkeys(way for row in rows for way in row["orders"])
    columns = {way: at(lambda own: obeyed([own]), "orders", way) for way in ways}
    return _sheet(columns, rows) if rows else None


def picture(told: Json) -> tuple[bytes, bytes]:
    """The accuracy of each row with its interval, and that of one verdict for all: as PNG and SVG."""
    rows = [row for part in told["items"] for row in rows_of(told, part)]
    judges = dict.fromkeys(row["judge"] for row in rows)
    with canvas(8.0, 0.34 * len(rows) + 1.5) as figure:
        axes = figure.subplots()
        for judge, look in zip(judges, itertools.cycle(LOOKS), strict=False):
            own = {place: row for place, row in enumerate(rows) if row["judge"] == judge}
            rates = [(row["right"], *(row["interval"] or [row["right"]] * 2)) for row in own.values()]
            right, low, high = 100 * np.array(rates).T
            bars = np.maximum([right - low, high - right], 0)
            how: Any = {"color": look.color, "marker": look.marker, "linestyle": "none", "label": judge}
            axes.errorbar(right, list(own), xerr=bars, **how)
        guesses = [100 * told["guessing"][row["part"]] for row in rows]
        axes.plot(guesses, range(len(rows)), "|", color="#888888", markersize=16, label="one verdict for all")
        axes.set_yticks(range(len(rows)), [f"{row['part']}: {row['prompt']}" for row in rows])
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), xlabel="verdicts that are right, %")
        figure.legend(loc="outside lower center", ncols=3, fontsize=10)
        return painted(figure, PNG), painted(figure, SVG)
