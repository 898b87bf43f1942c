"""The programs of a large model compiled for eight devices, nothing of it allocated.

Run as `python -m helpers.large_programs FILE MESH…`: it simulates the devices and writes to the file what
`test_compiled_meshes` reads.
"""

import math
import pickle
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pretrainrl_jax.config import MeshConfig, OptimizerConfig
from pretrainrl_jax.decoding import best_tokens
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.sampling import sample
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import Layout, make_mesh
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state, state_shardings
from pretrainrl_jax.trees.batch import FIELD_SPECS, PackedBatch
from pretrainrl_jax.trees.packing import Capacity

MESHES = {"2x1x4": (2, 1, 4), "2x2x2": (2, 2, 2), "1x8x1": (1, 8, 1)}
VOCABULARY, WIDTH = 151_936, 5_120  # of the large Qwen3
SHAPE = ModelShape(
    family="qwen3",
    vocabulary=VOCABULARY,
    d_model=WIDTH,
    layers=3,  # a number that nothing else has
    heads=40,
    kv_heads=8,
    head_dim=128,
    d_ff=5_120,
    rope_theta=1e6,
    norm_epsilon=1e-6,
    tied=False,
    dtype="bfloat16",
    remat="full",
)
BATCH, TIME = 8, 128
SIZE = Capacity(TIME, 64, 96, 16, 16)  # fewer states meet the vocabulary than there are
BEAMS, SAMPLES, PROMPT, GROWN = 16, 4, 32, 8


def described(compiled: Any, arguments: Any) -> dict[str, Any]:
    """A program's text and sizes, and the bytes of its arguments that a device has by their shardings."""
    memory = compiled.memory_analysis()
    return {
        "text": compiled.as_text(),
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "kept": memory.alias_size_in_bytes,
        "expected": own_bytes(arguments),
    }


def own_bytes(arrays: Any) -> int:
    """Bytes of abstract arrays that one device has."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(arrays)
    )


def placed(tree: Any, shardings: Any) -> Any:
    """Abstract arrays that lie so."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, shardings
    )


def array(mesh: Mesh, shape: tuple[int, ...], dtype: Any, *axes: str | None) -> jax.ShapeDtypeStruct:
    """An abstract array whose axes have these logical names."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=Layout(mesh).sharding(*axes))


def programs(mesh: Mesh) -> dict[str, Any]:
    """The training step with one microstep and with two, search, sampler, and the first parameters."""
    model = Model(SHAPE, mesh)
    shardings = parameter_shardings(model, mesh)
    params = placed(nn.unbox(model.abstract()), shardings)
    state = placed(
        jax.eval_shape(partial(init_state, optimizer=adamw(OptimizerConfig())), params),
        state_shardings(model, OptimizerConfig(), mesh),
    )

    def rows(microsteps: int) -> PackedBatch:
        def abstract(axis: str, fill: float) -> jax.ShapeDtypeStruct:
            shape = (microsteps, BATCH, *([getattr(SIZE, axis)] if axis else []))
            return array(mesh, shape, jnp.float32 if isinstance(fill, float) else jnp.int32, None, "rows")

        return PackedBatch(*(abstract(*field) for field in FIELD_SPECS))

    number = array(mesh, (), jnp.float32)
    terms = {"ntp": ("question", "answer", "answer_mean"), "dpo": ("weight", "beta")}
    coefficients = {name: dict.fromkeys(names, number) for name, names in terms.items()}
    numbers = coefficients, Schedule(*[number] * 4)
    update = compile_step(model, OptimizerConfig(), "sequence", mesh)
    step, accumulating = (update.lower(state, rows(count), *numbers).compile() for count in (1, 2))
    asked = (
        array(mesh, (BATCH, PROMPT), jnp.int32, "rows"),
        array(mesh, (BATCH,), jnp.int32, "rows"),
        array(mesh, (VOCABULARY,), jnp.bool),
    )
    widths = {"beams": BEAMS, "max_new_tokens": GROWN}
    search = beam_search.lower(model, params, *asked, **widths).compile()
    copying = None
    if mesh.shape["fsdp"] > 1:  # else nothing is copied
        whole = replace(model, room=math.inf)
        copying = described(beam_search.lower(whole, params, *asked, **widths).compile(), (params, asked))
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = array(mesh, (BATCH,), key.dtype, "rows")
    draw = sample.lower(
        model,
        params,
        *asked,
        keys,
        samples=SAMPLES,
        max_new_tokens=GROWN,
        temperature=number,
        top_p=number,
        top_k=array(mesh, (), jnp.int32),
    ).compile()
    initial = jax.jit(model.init, out_shardings=shardings).lower(key).compile()
    return {
        "parameters": own_bytes(params),
        "state": own_bytes(state),
        "step": described(step, (state, rows(1), numbers)),
        "accumulating": described(accumulating, (state, rows(2), numbers)),
        "search": described(search, (params, asked)),
        "copying": copying,
        "draw": described(draw, (params, asked, keys)),
        "first": described(initial, ()),
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    best_tokens.CPU_BLOCK = best_tokens.BLOCK  # as on the accelerators that these programs are read for
    results = {name: programs(make_mesh(MeshConfig(*MESHES[name]))) for name in sys.argv[2:]}
    Path(sys.argv[1]).write_bytes(pickle.dumps(results))
