"""Host memory while a checkpoint is opened, against the parameters that the process holds.

    python benchmarks/restore.py --workdir DIR [--layers 32]

A random Qwen3-shaped model, 2.28 GB of float32, is saved by one process on one CPU device, and opened by one
process, by one with eight simulated devices, and by two processes that share each parameter: by what the
peak of resident memory exceeds the memory before, as a share of what the process then holds.
"""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path

from pretrainrl_jax.config import HostsConfig, MeshConfig
from pretrainrl_jax.hosts.join import join, leave

folder, layers, port, count, index = sys.argv[1], *map(int, sys.argv[2:])
if count > 1:
    join(HostsConfig(coordinator=f"localhost:{port}", count=count, index=index))

import jax
import jax.numpy as jnp
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.loading import _restore_params
from pretrainrl_jax.training.step import TrainState

mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
shape = ModelShape("qwen3", 32768, 1024, layers, 8, 8, 128, 4096, 1e4, 1e-6, tied=True)
model = Model(shape, mesh)
places = parameter_shardings(model, mesh)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

if count == 0:
    params = jax.jit(model.init, out_shardings=places)(jax.random.key(0))
    checkpoints.save(Path(folder), TrainState(jnp.int32(0), params, ()))
else:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    params = jax.block_until_ready(_restore_params(Path(folder), 0, model, places, ""))
    held = sum(shard.data.nbytes for x in jax.tree.leaves(params) for shard in x.addressable_shards)
    grown = status("VmHWM") - before
    print(f"process {index} of {count}, {jax.device_count()} devices: {held / 1e9:.2f} GB held, "
          f"peak {grown / held:.2f} times that ({(grown - held) / 1e9:.2f} GB beside it)", flush=True)
    leave(0)
"""


def main() -> None:
    """Save once, open three times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    for count, devices in ((0, 1), (1, 1), (1, 8), (2, 1)):
        words = [sys.executable, "-c", PROGRAM, options.workdir / "big", options.layers, port, count]
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        environ = os.environ | flags | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
        started = [
            subprocess.Popen([str(word) for word in (*words, index)], env=environ)
            for index in range(max(1, count))
        ]
        for process in started:
            assert process.wait() == 0


if __name__ == "__main__":
    main()
