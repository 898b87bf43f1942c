"""Splash attention on meshes of eight simulated devices, interpreted, and XLA's on one device.

Run as `python -m helpers.splash_results FILE MESH…`: it writes to the file what `test_splash` compares.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers.models_and_trees import small_model

from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.model import splash
from pretrainrl_jax.model.attention import Kernel, TreeRows
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.partitioning import parameter_shardings, place_rows

# With rows of two and three parts, a part being two blocks and one; of documents, and of trees with branches.
MESHES = {"2x2x2": ((2, 2, 2), 512, False), "1x8x1": ((1, 8, 1), 384, False), "2x1x2": ((2, 1, 2), 384, True)}
ROWS = 8
SHAPE: dict[str, Any] = {"vocabulary": 64, "d_model": 32, "heads": 4, "kv_heads": 2, "head_dim": 64}


def gradient(kernel: Kernel, sizes: tuple[int, ...], time: int, branches: bool) -> Any:
    """Of a sum over hidden states the value, and the gradients of the parameters."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    model, params = small_model(remat="attention", **SHAPE)
    model = Model(model.shape, mesh, kernel)
    rng = np.random.default_rng(0)
    tree_id = np.sort(rng.integers(0, 4, (ROWS, time)), axis=1)[:, ::-1].astype(np.int32)  # padding last
    tokens = rng.integers(0, SHAPE["vocabulary"], (ROWS, time)).astype(np.int32)
    branch_id = np.zeros_like(tree_id)
    for of_row, trees in zip(branch_id, tree_id, strict=True):
        of_row[trees == 1] = np.sort(rng.integers(0, 3, (trees == 1).sum()))
    batch = [place_rows(x, mesh) for x in (tokens, tree_id, *([branch_id] if branches else []))]

    def total(params: Any, tokens: jax.Array, *ids: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(time), tokens.shape)
        hidden = model.hidden(params, tokens, positions, TreeRows(*ids)).hidden
        return jnp.where(ids[0][..., None] > 0, jnp.sin(hidden), 0.0).mean()

    params = jax.device_put(params, parameter_shardings(model, mesh))
    lowered = jax.jit(jax.value_and_grad(total)).lower(params, *batch)
    assert ("shard_map" in lowered.as_text() or "manual_computation" in lowered.as_text()) == (
        kernel == "splash"
    )
    return jax.device_get(lowered.compile()(params, *batch))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    splash.MIN_TIME, splash.BLOCKS = 128, (128,)
    found = {}
    for name in sys.argv[2:]:
        sizes, *rows = MESHES[name]
        found[name] = gradient("splash", sizes, *rows), gradient("xla", (1, 1, 1), *rows)
    Path(sys.argv[1]).write_bytes(pickle.dumps(found))
