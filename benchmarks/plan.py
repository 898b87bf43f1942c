"""What `plan` predicts of training steps, against what this machine's CPU does: memory and time, five shapes.

    taskset -c 1 python benchmarks/plan.py            # one core: under three minutes

Each shape has a process, in which the step's program comes from a cache that another one filled: a compiler's
own memory would be taken for the step's. There are measured, in turn: the growth of the largest resident set
from before the step's arrays are made until its steps are done; and, alternating, the step, a jitted product
of 1,024 cubed and a jitted pass over 256 MB that reads and writes them in place, float32, medians each. The
last two make a chip of this machine. Pages that a step's program is given anew are in no prediction.

Predicted, with efficiencies of 1: time from the compiled step's text (`planning.program`), as of TPUs, the
middle of the estimate; memory as the compiler says, arguments, outputs that take no argument's place, and
what is temporary; and both by hand from shapes (`planning.by_hand`), as of GPUs.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.config import Config, MeshConfig, PretrainConfig
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.by_hand import ByHand
from pretrainrl_jax.planning.chips import Chip, Topology
from pretrainrl_jax.planning.estimate import Efficiencies, Efficiency, estimate
from pretrainrl_jax.planning.program import read_program
from pretrainrl_jax.planning.programs import Program, planned
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.planning.work import Work

VOCABULARY = 8192
EXACT = Efficiencies(*[Efficiency(1.0, 1.0, 1.0, 1.0)] * 3)
SIZE, LENGTH = 1024, 64 * 2**20  # of the product's matrices, and of the array that is copied
REPEATS = 5
WARM = 1  # products, and copies, before those that count: a step leaves caches cold and pages given back
HOW = ("predicted", "by hand")
CASES = [  # d_model, layers, rows, tokens of a row, model.remat
    (128, 2, 8, 128, "none"),
    (256, 4, 4, 256, "full"),
    (256, 4, 4, 256, "none"),
    (384, 6, 2, 512, "full"),
    (512, 4, 4, 256, "none"),
]


def step_of(case: int) -> tuple[Program, ByHand]:
    """A pretraining step of one of the shapes, on one device; and the model by hand."""
    d_model, layers, rows, length, remat = CASES[case]
    shape = ModelShape(
        "qwen3", VOCABULARY, d_model, layers, d_model // 64, d_model // 128, 64, 3 * d_model, 1e6, 1e-6,
        tied=True, remat=remat,
    )  # fmt: skip
    settings = PretrainConfig(text="documents", steps=100, rows=rows, row_length=length)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    whole = planned(Config(pretrain=settings), shape, None, Material(1, 1, 1, 1, 1, ""), mesh, Chosen())
    return next(one for one in whole.programs if one.name == "pretraining step"), whole.hand


def arrays_of(lowered: Any) -> Any:
    """Arguments of a step: small random parameters, every token and index 1."""
    drawn = np.random.default_rng(0)

    def filled(x: Any) -> np.ndarray:
        if jnp.issubdtype(x.dtype, jnp.integer):
            return np.ones(x.shape, x.dtype)
        return np.abs(0.02 * drawn.standard_normal(x.shape)).astype(x.dtype)

    return jax.tree.map(filled, lowered.args_info[0])


def resident(field: str) -> float:
    """Bytes of this process's memory: VmRSS, now; VmHWM, at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Of the resident set: the largest one is the present one."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(case: int) -> dict[str, float]:
    """One shape: what its step takes, and what was predicted."""
    program, hand = step_of(case)
    lowered = program.lower()
    compiled, arguments = lowered.compile(), arrays_of(lowered)
    gc.collect()
    forget_peak()
    before = resident("VmRSS")
    state, *others = jax.device_put(arguments)
    for _ in range(2):
        state, _ = compiled(state, *others)
        jax.block_until_ready(state)
    growth = resident("VmHWM") - before

    square = jnp.ones((SIZE, SIZE)) / SIZE
    long = jnp.ones(LENGTH)
    multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1, donate_argnums=0)
    times: dict[str, list[float]] = {"step": [], "product": [], "copy": []}
    for repeat in range(REPEATS + 1):
        began = time.perf_counter()
        state, _ = compiled(state, *others)
        jax.block_until_ready(state)
        taken = {"step": [time.perf_counter() - began], "product": [], "copy": []}
        for _ in range(WARM + 3):
            began = time.perf_counter()
            multiply(square, square).block_until_ready()
            taken["product"].append(time.perf_counter() - began)
        for _ in range(WARM + 1):
            began = time.perf_counter()
            long = copy(long).block_until_ready()
            taken["copy"].append(time.perf_counter() - began)
        if repeat:  # the first ones compile
            for name, each in times.items():
                each += taken[name][0 if name == "step" else WARM :]
    median = {name: statistics.median(each) for name, each in times.items()}

    rate, bandwidth = 2 * SIZE**3 / median["product"], 2 * 4 * LENGTH / median["copy"]
    place = Topology(Chip("this CPU", "gpu", rate, 1e12, bandwidth, 1.0, 0, 0, 1), (1,))
    read, memory = read_program(compiled.as_text()), compiled.memory_analysis()
    work = Work(read.operations, ())
    told, by_hand = (estimate(each, place, EXACT) for each in (work, program.load.work(hand)))
    arguments_and_outputs = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )
    return {
        "rate": rate,
        "bandwidth": bandwidth,
        "seconds": median["step"],
        "predicted_seconds": told.middle,
        "by_hand_seconds": by_hand.middle,
        "memory": growth,
        "predicted_memory": arguments_and_outputs + memory.temp_size_in_bytes,
        "by_hand_memory": memory.argument_size_in_bytes + program.load.working(hand),
    }


def in_process(cache: str, *options: str) -> dict[str, float]:
    """This script in a process of its own, which keeps what it compiles in a folder."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, __file__, *options]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout)


def row(case: int, of: dict[str, float]) -> str:
    """Of the table: what was measured, and predictions as shares of it."""
    d_model, layers, rows, length, remat = CASES[case]
    cells = [
        f"{d_model} x {layers}, {rows} x {length}{', recomputed' if remat == 'full' else ''}",
        f"{of['rate'] / 1e9:.1f}",
        f"{of['bandwidth'] / 1e9:.1f}",
        f"{of['seconds'] * 1e3:,.0f} ms",
        f"{of['predicted_seconds'] / of['seconds']:.2f}",
        f"{of['by_hand_seconds'] / of['seconds']:.2f}",
        f"{of['memory'] / 1e6:,.0f} MB",
        f"{of['predicted_memory'] / of['memory']:.2f}",
        f"{of['by_hand_memory'] / of['memory']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def errors(every: list[dict[str, float]], what: str, how: str) -> str:
    """Of predictions, as shares of what was measured."""
    of_each = [of[f"{how}_{what}"] / of[what] - 1 for of in every]
    mean = statistics.mean(map(abs, of_each))
    said = f"mean error {mean:.0%}, from {min(of_each):+.0%} to {max(of_each):+.0%}"
    return f"{what}, {how.replace('_', ' ')}: {said}"


def main() -> None:
    """The table of all shapes; or, as JSON, one of them."""
    parser = argparse.ArgumentParser(description="predictions of `plan` against this CPU")
    parser.add_argument("--case", type=int, help="one of the shapes alone, in this process")
    parser.add_argument("--warm", action="store_true", help="only compile all shapes")
    options = parser.parse_args()
    if options.warm:
        for case in range(len(CASES)):
            step_of(case)[0].lower().compile()
        print("{}")
        return
    if options.case is not None:
        print(json.dumps(measured(options.case)))
        return
    heads = ["d_model x layers, rows", "GFLOP/s", "GB/s", "step", *HOW, "memory", *HOW]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    every = []
    with tempfile.TemporaryDirectory() as cache:
        in_process(cache, "--warm")
        for case in range(len(CASES)):
            every.append(in_process(cache, "--case", str(case)))
            print(row(case, every[-1]), flush=True)
    for what in ("seconds", "memory"):
        for how in ("predicted", "by_hand"):
            print(errors(every, what, how))


if __name__ == "__main__":
    main()
