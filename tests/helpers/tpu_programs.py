"""A training step on documents or on trees, compiled by libtpu for TPUs that are not here.

Run as `python -m helpers.tpu_programs FILE`: it writes to the file, of each kernel of attention and kind of
rows, the bytes of the step's temporaries on a device, and the names of the Pallas kernels in it. Nothing is
allocated. In the environment it needs `ENVIRONMENT`.
"""

import pickle
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import topologies

from pretrainrl_jax.config import MeshConfig, OptimizerConfig
from pretrainrl_jax.model.attention import Kernel
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state
from pretrainrl_jax.trees.batch import FIELD_SPECS, PackedBatch

# libtpu asks no metadata server which machine it is on.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5p-8"}
TIME, ROWS, HEADS = 4096, 4, 8
TARGETS = 512  # of a row: no branch is longer
SHAPE = ModelShape(
    "qwen3", 4096, 512, 2, HEADS, 4, 128, 1024, 1e6, 1e-6, tied=True, dtype="bfloat16", remat="attention"
)
CALL = re.compile(r"\bsplash_\w+")


def step(kernel: Kernel, branches: bool, devices: Any) -> tuple[int, set[str]]:
    """Temporaries of the step on one device, and the kernels in it."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices)
    model, settings = Model(SHAPE, mesh, kernel), OptimizerConfig()
    params = nn.unbox(model.abstract())
    state = jax.eval_shape(partial(init_state, optimizer=adamw(settings)), params)

    def abstract(axis: str, fill: float) -> jax.ShapeDtypeStruct:
        held = {"pairs": 16, "targets": TARGETS}.get(axis, TIME)
        shape = (1, ROWS, *([held] if axis else []))
        return jax.ShapeDtypeStruct(shape, jnp.float32 if isinstance(fill, float) else jnp.int32)

    batch = PackedBatch(*(abstract(*field) for field in FIELD_SPECS))
    batch = batch if branches else batch._replace(branch_id=None)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    lowered = compile_step(model, settings, "token", mesh).lower(
        state, batch, {"ntp": {"answer": number}}, Schedule(*[number] * 4)
    )
    found = set(CALL.findall(lowered.as_text()))
    return lowered.compile().memory_analysis().temp_size_in_bytes, found


if __name__ == "__main__":
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices
    programs: dict[str, tuple[Kernel, bool]] = {
        "documents": ("splash", False), "trees": ("splash", True), "xla": ("xla", False),
    }  # fmt: skip
    found = {name: step(*program, devices) for name, program in programs.items()}
    Path(sys.argv[1]).write_bytes(pickle.dumps(found))
