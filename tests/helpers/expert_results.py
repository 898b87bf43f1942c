"""What a small mixture of experts computes on meshes of eight devices, and on one.

Run as `python -m helpers.expert_results FILE MESH…`, as mesh_results is, whose parts it uses.
"""

import math
import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from helpers.mesh_results import (
    BATCH,
    BEAMS,
    CHANCES,
    COEFFICIENTS,
    LIMIT,
    LORA,
    ONE,
    ROW_LENGTH,
    SAMPLES,
    SCHEDULE,
    SETTINGS,
    SHAPE,
    TERMINATORS,
    Found,
    guarded,
    marked,
    placed,
    prompts,
    trees,
)
from helpers.models_and_trees import small_model

from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.lora import split
from pretrainrl_jax.model.mesh import Layout, make_mesh, replicated
from pretrainrl_jax.model.partitioning import parameter_shardings, place
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.step import compile_step, init_sharded_state
from pretrainrl_jax.trees.dataset import PackedRows

# data, fsdp, tensor, expert.
MESHES = {
    "experts": (1, 1, 1, 8),
    "all but data": (1, 2, 2, 2),
    "all but tensor": (2, 2, 1, 2),
    "experts whole": (2, 2, 2, 1),
}
KINDS = ("all", "adapted")
MIXTURE: dict[str, Any] = SHAPE | {
    "family": "qwen3_moe",
    "d_ff": 24,
    "experts": 16,
    "experts_per_token": 3,
    "router_loss": 0.5,
}


@cache
def mixture(kind: str) -> tuple[Model, Params]:
    """The policy of a training: all of it learns, recomputed, or adapters alone."""
    lora = LORA if kind == "adapted" else None
    return small_model(remat="none" if lora else "full", lora=lora, sharpness=3.0, **MIXTURE)


def training(layout: Layout, kind: str) -> Found:
    """A few steps of the whole PretrainRL loss."""
    model, params = placed(*mixture(kind), layout)
    mesh: Any = layout.mesh
    frozen, _ = split(model.shape.lora, params)
    source = PackedRows(trees(150), ROW_LENGTH, seed=1, passes=1, rows=8)
    step = compile_step(model, SETTINGS, "sequence", mesh)
    numbers = jax.tree.map(lambda x: place(np.float32(x), replicated(mesh)), (COEFFICIENTS, SCHEDULE))
    state, lines = init_sharded_state(model, params, SETTINGS, mesh), []
    first: Any = None
    for batch in Feed(source, mesh):
        with guarded():
            state, metrics = step(state, batch, *numbers, *([frozen] if frozen else []))
        lines.append({name: float(value) for name, value in jax.device_get(metrics).items()})
        if first is None:
            first = jax.device_get(state.opt_state[1].mu)
    specs = jax.tree.leaves_with_path(parameter_shardings(model, mesh))
    return {
        "lines": lines,
        "gradient": jax.tree.map(lambda x: x / (1 - SETTINGS.beta1), first),
        "params": jax.device_get(state.params),
        "specs": {jax.tree_util.keystr(path): tuple(place.spec) for path, place in specs},
    }


def answers(layout: Layout) -> Found:
    """Beams and samples of prompts, and scores of trees."""
    model, params = placed(*mixture("all"), layout)
    ends, limits = marked(TERMINATORS), {"max_new_tokens": LIMIT, "batch": BATCH}
    with guarded():
        return {
            "beams": decode(model, params, prompts(), ends, beams=BEAMS, **limits),
            "samples": sample_batch(
                model, params, prompts(), ends, samples=SAMPLES, seed=7, **limits, **CHANCES["top-p"]
            ),
            "scores": score_trees(model, params, trees(60), row_length=ROW_LENGTH, rows=BATCH),
        }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    computed = {}
    for name in sys.argv[2:]:
        sizes = {ONE: (1, 1, 1, 1), **MESHES}[name]
        layout = Layout(make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)]))
        of_kinds = {kind: training(layout, kind) for kind in KINDS}
        computed[name] = {"training": of_kinds, **answers(layout)}
    Path(sys.argv[1]).write_bytes(pickle.dumps(computed))
