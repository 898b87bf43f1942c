"""What a bench of judges found: its table for a terminal, its page, its picture, its numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.report.columns import Cell, Sheet, grid, markdown, plain, sheet
from pretrainrl_jax.report.drawing import LOOKS, SVG, canvas, data_address, error_bars, save
from pretrainrl_jax.report.formats import Json, decimals, percent, span
from pretrainrl_jax.report.page import template, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = (
    "right\n%", "95 %", "κ", "ranks\n%", "none\n%", "first\n%", "orders\ndiffer %", "longer\n%",
    "with orders\nright %", "s a\nverdict", "cost of\n1,000",
)  # fmt: skip
WIDTH = 120  # of the terminal's table


def write_judges(workdir: Path, told: Json) -> Path:
    """Write `judges/judges.json`, `judges.md`, `judges.png` and `index.html`; gives the path of the page."""
    folder = workdir / "judges"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "judges.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    write_text(folder / "judges.md", in_markdown(told))
    figure = picture(told)
    save(figure, folder / "judges.png")
    page = template("judges.html.j2").render(
        told=told,
        picture=data_address(figure, SVG),
        sheets=[(part, rows_of(told, part), _sheet(rows_of(told, part))) for part in told["items"]],
        agreement=[(part, _agreement(told, part)) for part in told["items"]],
        kinds=[(part, made) for part in told["items"] if (made := _kinds(told, part))],
        attacked=_attacked(told),
        guessing=told["guessing"],
    )
    return write_page(folder / "index.html", page)


def rows_of(told: Json, part: str) -> list[Json]:
    """The rows of a part, as they were asked."""
    return [row for row in told["rows"] if row["part"] == part]


def table(told: Json) -> str:
    """A table for each part, and one of texts that give orders, for a terminal."""
    parts = []
    for part, count in told["items"].items():
        rows = rows_of(told, part)
        if not rows:
            continue
        guess = percent(told["guessing"][part])
        parts.append(f"{part}: {count:,} labelled texts; one verdict for all is right in {guess}")
        kept = [i for i in range(len(HEADS)) if any(_cells(row)[i] for row in rows)]
        lines = [[row["judge"], row["prompt"], *(_cells(row)[i] for i in kept)] for row in rows]
        parts.append(grid({"judge": 22, "prompt": 26}, [HEADS[i] for i in kept], lines))
    if attacked := _attacked(told):
        parts.append("texts that give orders: % right without → with them")
        cells = [[cell.text for cell in row] for row in attacked.rows]
        parts.append(grid({"judge": 22, "prompt": 26}, attacked.heads[2:], cells))
    return plain(*parts, width=WIDTH)


def in_markdown(told: Json) -> str:
    """The same as one table of Markdown."""
    heads = ["judge", "part", "prompt", *(" ".join(head.split("\n")) for head in HEADS)]
    return markdown(
        heads,
        [
            [row["judge"], row["part"], row["prompt"], *(c or "–" for c in _cells(row))]
            for row in told["rows"]
        ],
    )


def _cells(row: Json) -> list[str]:
    cost = row.get("cost")
    return [
        percent(row["right"], ""),
        span(row["interval"]),
        "" if row["kappa"] is None else decimals(row["kappa"], 2),
        _share(row["ranks"]),
        percent(row["undecided"], "") if row["undecided"] else "",
        _share(row.get("first")),
        _share(row.get("orders_differ")),
        _share(row.get("longer")),
        obeyed(row["orders"].values()),
        "" if row["seconds"] is None else decimals(row["seconds"], 3),
        "" if not cost else decimals(1000 * cost, 2),
    ]


def _share(value: float | None) -> str:
    return "" if value is None else percent(value, "")


def obeyed(ways: Sequence[Json]) -> str:
    """Percent right without orders, and with them."""
    count = sum(way["count"] for way in ways)
    if not count:
        return ""
    before, after = (sum(way[name] for way in ways) / count for name in ("before", "after"))
    return f"{100 * before:.0f} → {100 * after:.0f}"


def _sheet(rows: Sequence[Json]) -> Sheet:
    columns = {"judge": lambda row: Cell(row["judge"]), "prompt": lambda row: Cell(row["prompt"])}
    heads = [" ".join(head.split("\n")) for head in HEADS]
    for place, head in enumerate(heads):
        if head == "95 %":
            continue
        under = place == 0

        def cell(row: Json, place: int = place, under: bool = under) -> Cell:
            own = _cells(row)
            return Cell(own[place] or "–", own[1] if under else "")

        columns[head] = cell
    return sheet(columns, rows, words=2)


def _agreement(told: Json, part: str) -> Sheet | None:
    """Cohen's kappa of each two rows; None where there is one alone."""
    rows, values = rows_of(told, part), told["agreement"][part]
    if len(rows) < 2:
        return None
    several = len({row["judge"] for row in rows}) > 1
    names = [f"{row['judge']}: {row['prompt']}" if several else row["prompt"] for row in rows]
    made = [
        [Cell(name), *(Cell("–" if value is None else decimals(value, 2)) for value in own)]
        for name, own in zip(names, values, strict=True)
    ]
    return Sheet(["κ with", *names], made)


def _kinds(told: Json, part: str) -> Sheet | None:
    """The accuracy by the labels' kinds; None where the file names none."""
    rows = rows_of(told, part)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    if kinds in ([], [""]):
        return None
    made = [
        [Cell(row["judge"]), Cell(row["prompt"])]
        + [Cell(percent(row["kinds"][kind]["right"], "") if kind in row["kinds"] else "–") for kind in kinds]
        for row in rows
    ]
    counts = rows[0]["kinds"]
    heads = [f"{kind or 'others'} ({counts[kind]['count']})" for kind in kinds]
    return Sheet(["judge", "prompt", *heads], made, words=2)


def _attacked(told: Json) -> Sheet | None:
    """Texts that give orders, by the way they do; None where none did."""
    ways = list(dict.fromkeys(way for row in told["rows"] for way in row["orders"]))
    rows = [row for row in told["rows"] if row["orders"]]
    made = [
        [Cell(row["judge"]), Cell(row["prompt"]), *(Cell(obeyed([row["orders"][way]])) for way in ways)]
        for row in rows
    ]
    return Sheet(["judge", "prompt", *ways], made, words=2) if rows else None


def picture(told: Json) -> "Figure":
    """The accuracy of each row with its interval, a panel for each part, a line for one verdict for all."""
    parts = [part for part in told["items"] if rows_of(told, part)]
    judges = list(dict.fromkeys(row["judge"] for row in told["rows"]))
    heights = [len(rows_of(told, part)) for part in parts]
    with canvas(8.0, 0.34 * sum(heights) + 0.9 * len(parts) + 0.6) as figure:
        axes = figure.subplots(
            len(parts), 1, squeeze=False, sharex=True, height_ratios=[h + 0.6 for h in heights]
        )
        for part, (panel,) in zip(parts, axes, strict=True):
            rows = rows_of(told, part)
            panel.set_title(part, loc="left")
            panel.axvline(
                100 * told["guessing"][part], color="#888888", linestyle="--", linewidth=1, zorder=1
            )
            for place, row in enumerate(rows):
                look = LOOKS[judges.index(row["judge"]) % len(LOOKS)]
                rate, (low, high) = 100 * row["right"], row["interval"] or (row["right"], row["right"])
                bars = error_bars(rate, 100 * low, 100 * high).reshape(2, 1)
                panel.errorbar(
                    [rate], [place], xerr=bars, color=look.color, marker=look.marker, markersize=7, capsize=2,
                    linestyle="none",
                )  # fmt: skip
            panel.set_yticks(range(len(rows)), [row["prompt"] for row in rows])
            panel.set_ylim(len(rows) - 0.4, -0.6)
            panel.grid(visible=False, axis="y")
        axes[-1][0].set_xlim(0, 100)
        axes[-1][0].set_xlabel("verdicts that are right, % (dashed: one verdict for all)")
        handles = [
            axes[0][0].plot([], [], color=look.color, marker=look.marker, linestyle="none", label=judge)[0]
            for judge, look in zip(judges, (LOOKS[i % len(LOOKS)] for i in range(len(judges))), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
        return figure
