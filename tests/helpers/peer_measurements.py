"""What tests measured against a peer, as one Markdown table at the end of a run."""

from collections.abc import Iterable
from importlib.metadata import version

PROPERTY = "parity"  # under which a test records (model, check, error, tolerance)
PEERS = ("transformers", "torch", "trl", "jax")
Measured = tuple[str, str, float, float]


def table(measured: Iterable[Measured]) -> list[str]:
    """For each check and model the largest error of all cases, and the tolerance."""
    largest: dict[tuple[str, str], float] = {}
    tolerances: dict[str, float] = {}
    models: dict[str, None] = {}
    for model, check, error, tolerance in measured:
        largest[check, model] = max(error, largest.get((check, model), 0.0))
        tolerances[check] = tolerance
        models[model] = None
    columns = sorted(models)
    lines = [["check", *columns, "tolerance"], ["---"] * (len(columns) + 2)]
    for check, tolerance in sorted(tolerances.items()):
        errors = [largest.get((check, model)) for model in columns]
        cells = ["" if e is None else _number(e) if e <= tolerance else f"**{_number(e)}**" for e in errors]
        lines.append([check, *cells, _number(tolerance)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |" for cells in lines
    ]


def versions() -> str:
    """The peers and their versions."""
    return ", ".join(f"{name} {version(name)}" for name in PEERS)


def _number(value: float) -> str:
    return f"{value:.1e}" if value else "0"
