"""The core on a GPU: checked against the CPU, then measured, with one table at the end.

    PYTHONPATH=. python benchmarks/gpu.py --out FOLDER [--quick]
    PYTHONPATH=. JAX_PLATFORMS=cpu python benchmarks/gpu.py --out FOLDER --shape tiny    # tries the program

It needs jax, flax, optax, orbax-checkpoint, transformers and numpy alone; trees are of random tokens. Without
a GPU the CPU is checked against itself and measured. Checks: logits, token_logps and its gradients, loss and
gradients, kernels of attention, beam search and sampling, in exact float32, in float32 as the device
multiplies it by itself (TF32) and in bfloat16, all against exact float32 on the CPU. Measures: training on
PretrainRL's trees, mining, sampling, pretraining, and the loss over the vocabulary by block. FLOPs are the
model's, on tokens that are not padding, without recomputation, and beside them stands the device's
matrix-product rate.

Each part runs in a process of its own, on the first device: one that crashes, hangs or runs out of memory
loses nothing of the others. FOLDER/gpu.json and gpu.md are written anew after each part. Exit code 1:
something failed; that a batch does not fit in the device's memory is a result and no failure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PARTS = ("checks", "training", "mining", "sampling", "pretraining", "head")
SHAPES = ("qwen3-1.7b", "core", "tiny")
PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
)

Record = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Every part in a process of its own; what it recorded is kept, however it ended."""
    options = parse(arguments)
    if options.records:
        run_part(options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for part in options.parts:
        records += part_records(part, options)
        done = marked(records)
        (options.out / "gpu.json").write_text(json.dumps(done, indent=1) + "\n")
        (options.out / "gpu.md").write_text(markdown(done))
    print(f"written: {options.out / 'gpu.json'}, {options.out / 'gpu.md'}")
    wrong = [record for record in records if failed(record)]
    print(f"{len(wrong)} failed" if wrong else "nothing failed")
    return 1 if wrong else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0], help="of what is measured")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="by default all, in this order"
    )
    parser.add_argument("--quick", action="store_true", help="two timings of each measure, not five")
    parser.add_argument("--minutes", type=float, default=6.0, help="that a part may take")
    parser.add_argument(
        "--records", type=Path, help=argparse.SUPPRESS
    )  # of the one part that this process runs
    return parser.parse_args(arguments)


def part_records(part: str, options: argparse.Namespace) -> list[Record]:
    """What one part records, and how its process ended if not well."""
    print(f"== {part}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        path.touch()
        command = [sys.executable, __file__, "--out", str(options.out), "--shape", options.shape]
        command += ["--parts", part, "--records", str(path), *["--quick"] * options.quick]
        began = time.perf_counter()
        try:
            code = subprocess.run(command, timeout=60 * options.minutes).returncode
            ended = f"its process ended with code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"stopped after {options.minutes:g} minutes"
        # A line that the process was ended in is left out.
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    about: Record = {"kind": "part", "name": part, "process_seconds": time.perf_counter() - began}
    if ended:
        print(f"{part}: {ended}", flush=True)
        about["failed"] = ended
    return [{"part": part} | record for record in [*map(json.loads, lines), about]]


def run_part(options: argparse.Namespace) -> None:
    """Run a part here: a line of JSON for each record as soon as it is there."""
    from pretrainrl_jax.config import PlatformConfig
    from pretrainrl_jax.platforms import kernel_for, prepare

    prepare("")  # XLA's flags are those of every run
    import jax

    asked = jax.config.jax_platforms
    if asked and "cpu" not in asked.split(","):
        jax.config.update("jax_platforms", f"{asked},cpu")  # checks need it beside the GPU
    from gpu_checks import SIZES, Place, checks
    from gpu_measures import MEASURES, WORKS

    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    capability = str(getattr(device, "compute_capability", ""))
    kernel = kernel_for(device.platform, PlatformConfig(), capability)
    work, repeats = WORKS[options.shape], 2 if options.quick else 5

    def all_records() -> Iterator[Record]:
        yield {
            "kind": "about",
            "device": device.device_kind,
            "platform": device.platform,
            "capability": capability,
            "devices": jax.device_count(),
            "memory": (device.memory_stats() or {}).get("bytes_limit"),
            "kernel": kernel,
            "versions": versions(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "shape_name": options.shape,
            "work": work._asdict() | {"shape": vars(work.shape)},
            "repeats": repeats,
        }
        if options.parts == ["checks"]:
            yield from checks(Place(device, cpu, kernel), SIZES.get(options.shape, SIZES[""]))
        else:
            yield from MEASURES[options.parts[0]](work, kernel, device, repeats)

    with open(options.records, "a") as file:
        for record in all_records():
            file.write(json.dumps(record) + "\n")
            file.flush()
            if record["kind"] == "about":
                print(f"{record['device']}, attention's kernel {record['kernel']}", flush=True)
            else:
                print("  ".join(cell for cell in cells(record) if cell), flush=True)


def versions() -> dict[str, str]:
    """Of the packages that are here, Python's too."""
    installed = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def failed(record: Record) -> bool:
    """Whether a record makes the exit code 1."""
    if record["kind"] == "check":
        return not record["passed"]
    return record.get("failed", "out of memory") != "out of memory"


def marked(records: list[Record]) -> list[Record]:
    """The records, of the sizes of a measure the one with the highest rate marked as best."""
    best: dict[str, float] = {}
    for record in records:
        if "rate" in record:
            best[record["name"]] = max(best.get(record["name"], 0.0), record["rate"])
    return [r | ({"best": r["rate"] == best[r["name"]]} if "rate" in r else {}) for r in records]


def cells(record: Record) -> list[str]:
    """A record's line of its table."""
    if record["kind"] == "check":
        error = "none" if record["error"] is None else f"{record['error']:.1e}"
        verdict = "pass" if record["passed"] else "FAIL"
        return [verdict, record["name"], record["precision"], error, f"{record['bound']:.0e}", record["note"]]

    def shown(key: str, form: str, factor: float = 1.0) -> str:
        value = record.get(key)
        return "" if value is None else form.format(factor * value)

    seconds, note = record.get("seconds"), record.get("failed", "")
    if "times_one" in record:
        note = f"{record['times_one']:.2f} times one sample"
    return [
        record["name"],
        record["size"],
        f"{1000 * record['median']:.4g} ms ({1000 * min(seconds):.4g}-{1000 * max(seconds):.4g})"
        if seconds
        else "",
        f"{record['rate']:,.4g} {record['unit']}" if "rate" in record else "",
        shown("tokens_per_second", "{:,.0f} tokens/s") if record.get("unit") != "tokens/s" else "",
        shown("flops_per_second", "{:.4g} TFLOP/s", 1e-12),
        shown("share", "{:.1%}"),
        shown("compile_seconds", "{:.1f} s"),
        shown("peak_gib", "{:.1f} GiB"),
        note,
    ]


def table(names: Iterable[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    names = list(names)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def markdown(records: list[Record]) -> str:
    """The whole result as one page."""
    about = next((record for record in records if record["kind"] == "about"), None)
    by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in ("check", "measure", "part")}
    lines = []
    if about:
        memory = f", {about['memory'] / 2**30:.1f} GiB for JAX" if about["memory"] else ""
        lines += [
            f"# Measured on {about['device']}",
            f"Platform {about['platform']}{memory}, attention's kernel {about['kernel']}; shape "
            f"{about['shape_name']}, {about['work']['shape']['dtype']}. "
            + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
            + ".",
        ]
        if about["platform"] == "cpu":
            lines.append(
                "There is only a CPU: it is checked against itself, and this is no measure of a GPU."
            )
    if by_kind["check"]:
        lines.append(f"## Checks: {sum(map(failed, by_kind['check']))} of {len(by_kind['check'])} failed")
        lines.append("Error: the largest, relative to the largest entry of what is compared.")
        names = ("", "check", "precision", "error", "bound", "note")
        lines.append(table(names, map(cells, by_kind["check"])))
    if by_kind["measure"]:
        lines.append("## Measures")
        lines.append(
            "Medians, and from fastest to slowest; the best size in bold. TFLOP/s: the model's; share: of "
            "the matrix-product rate in its compute dtype, measured before. Compilation with the first run. "
            "Peak: of the part's process until then."
        )
        rows = []
        for record in by_kind["measure"]:
            row = cells(record)
            rows.append([row[0], f"**{row[1]}**" if record.get("best") else row[1], *row[2:]])
        names = (
            "measure",
            "size",
            "time",
            "rate",
            "tokens",
            "TFLOP/s",
            "share",
            "compiled in",
            "peak",
            "note",
        )
        lines.append(table(names, rows))
    lines.append("## Parts")
    ends = ([r["name"], f"{r['process_seconds']:.0f} s", r.get("failed", "")] for r in by_kind["part"])
    lines.append(table(("part", "took", "note"), ends))
    return "\n\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
