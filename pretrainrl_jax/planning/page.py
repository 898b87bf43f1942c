"""A plan as text for a terminal."""

from collections import defaultdict
from collections.abc import Sequence

from rich.table import Table as Grid

from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.figures import Figures, named
from pretrainrl_jax.planning.planned import Planned
from pretrainrl_jax.report.columns import grid, plain

HOUR = 3600.0
WIDTH = 172  # characters of the widest table


def page(
    title: str, planned: Planned, every: Sequence[Figures], topology: Topology, price: float | None
) -> str:
    """Memory, time, communication, and the whole run."""
    chip, mesh = topology.chip, planned.mesh.shape
    cut = " x ".join(f"{axis} {size}" for axis, size in mesh.items() if axis != "expert" or size > 1)
    size = parameters(planned.hand.shape).total
    told = f"{size / 1e9:.2f}B" if size >= 1e8 else f"{size / 1e6:.2f}M"
    head = (
        f"{title}: {told} parameters on {topology.name}, "
        f"{topology.count} chips of {topology.hosts} hosts; mesh {cut}"
    )
    return plain(
        head,
        "memory, GiB a chip",
        _memory(every),
        f"time, an estimate: {chip.flops / 1e12:,.0f} TFLOP/s, {chip.hbm_bandwidth / 1e9:,.0f} GB/s of "
        f"memory and {chip.link_bandwidth / 1e9:,.0f} GB/s a link are a chip's peaks; MFU counts the model's "
        "own products, causal attention halved, nothing recomputed",
        _time(every, topology),
        "sent by a chip, an execution",
        _sent(every),
        "the whole run",
        _run(every, topology, price),
        width=WIDTH,
    )


def _memory(every: Sequence[Figures]) -> Grid:
    *heads, _ = every[0].memory
    rows = [
        [
            one.program.name,
            *(f"{size / GIB:.2f}" if size else "–" for size in one.memory.values()),
            f"{one.free:.0%}",
        ]
        for one in every
    ]
    return grid({"": None}, [*heads, "of", "free"], rows)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.3f}" if seconds >= 0.001 else f"{seconds:.1g}"


def _time(every: Sequence[Figures], topology: Topology) -> Grid:
    heads = ["rows a chip", "tokens", "TFLOP a chip", "compute", "memory", "network", "bound by",
             "s, each, and its range", "MFU, %, and its range"]  # fmt: skip
    rows = []
    for one in every:
        program, time = one.program, one.time
        if time is None or one.work is None:
            rows.append([program.name, *["–"] * len(heads)])
            continue
        ends = (time.middle, time.shortest, time.longest)
        middle, most, least = (100 * one.mfu(seconds) for seconds in ends)
        rows.append(
            [
                program.name,
                f"{program.load.rows / topology.count:.3g} x {program.load.time:,}",
                f"{program.tokens:,.0f}",
                f"{one.work.flops / 1e12:,.1f}",
                *map(_seconds, (time.compute, time.memory, time.network)),
                time.bound,
                f"{_seconds(time.middle)} ({_seconds(time.shortest)} to {_seconds(time.longest)})",
                f"{middle:.0f} ({least:.0f} to {most:.0f})",
            ]
        )
    return grid({"": None}, heads, rows)


def _sent(every: Sequence[Figures]) -> Grid | str:
    heads = ["chips", "times", "GB an array, up to", "GB in all"]
    same: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for one in every:
        same.setdefault(_collectives(one), []).append(one.program.name)
    rows = [[named(names), *cells] for collectives, names in same.items() for cells in collectives]
    return grid({"": None, "collective": None}, heads, rows) if rows else "nothing"


def _collectives(one: Figures) -> tuple[tuple[str, ...], ...]:
    """By kind and chips: how often, the largest array, and all together; what is next to nothing is not."""
    kinds: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for sent in one.work.sent if one.work else ():
        kinds[sent.kind, sent.group].append((sent.times, sent.bytes))
    told = []
    for (kind, group), parts in sorted(kinds.items()):
        total, largest = sum(times * size for times, size in parts), max(size for _, size in parts)
        if total >= 0.05e9:
            times = sum(times for times, _ in parts)
            cells = f"{group}", f"{times:,.0f}", f"{largest / 1e9:.2g}", f"{total / 1e9:,.1f}"
            told.append((kind, *cells))
    return tuple(told)


def _run(every: Sequence[Figures], topology: Topology, price: float | None) -> Grid:
    heads = ["executions", "updates", "tokens", "hours", "chip-hours"] + (["price"] if price else [])
    rows, totals = [], (0.0, 0.0)
    for one in every:
        program, times = one.program, one.program.executions
        if times is None or one.time is None:
            rows.append([program.name, *["–"] * len(heads)])
            continue
        least, most = (one.run(end) / HOUR for end in ("shortest", "longest"))
        totals = totals[0] + least, totals[1] + most
        rows.append(
            [
                program.name,
                f"{times:,.0f}",
                f"{program.updates:,.0f}" if program.updates else "–",
                f"{times * program.tokens / 1e6:,.1f}M",
                *_hours(least, most, topology, price),
            ]
        )
    counted = sum(one.program.executions is not None and one.time is not None for one in every)
    # What the others take nobody knows: this is not the whole run's.
    what = "all" if counted == len(every) else f"the {counted} known of {len(every)}"
    rows.append([what, "", "", "", *_hours(*totals, topology, price)])
    return grid({"": None}, heads, rows)


def _hours(low: float, high: float, topology: Topology, price: float | None) -> list[str]:
    chips = topology.count
    said = [f"{low:,.2f} to {high:,.2f}", f"{chips * low:,.1f} to {chips * high:,.1f}"]
    return said + ([f"{chips * low * price:,.2f} to {chips * high * price:,.2f}"] if price else [])
