"""Devices that are not here, and what a configuration runs on them."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
from jax.experimental import topologies

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.mesh import check_batch, make_mesh
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.planned import Planned
from pretrainrl_jax.planning.programs import planned
from pretrainrl_jax.planning.shapes import shape_for, shape_of
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.platforms import kernel_for, set_flags

MOST_GPUS = 512  # that this machine's CPU stands for: each has threads


def prepare_target(topology: Topology) -> None:
    """Set what JAX and libtpu read, before JAX starts its backend, which is this machine's CPU.

    Of GPUs it stands for as many as there are to be: nothing runs there.

    Raises InputError if libtpu is not installed, or for more GPUs than that.
    """
    if topology.chip.kind == "tpu":
        try:
            version("libtpu")
        except PackageNotFoundError:
            how = "pip install 'pretrainrl_jax[plan]'"
            raise InputError(f"plan compiles for TPUs with libtpu, which is not installed: {how}") from None
        set_flags("tpu")
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # nothing is driven: several may compile at a time
        }
    else:
        if topology.count > MOST_GPUS:
            raise InputError(f"--topology={topology.name}: plan takes {MOST_GPUS} GPUs at most")
        jax.config.update("jax_num_cpu_devices", topology.count)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of child processes
    jax.config.update("jax_platforms", "cpu")  # of this one, which may have read the variable


def devices_of(topology: Topology) -> Sequence[Any]:
    """The slice's devices, which stand for those to come; raises InputError if libtpu knows no such slice."""
    if topology.chip.kind == "gpu":
        return jax.devices("cpu")[: topology.count]
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
    except Exception as error:
        why = str(error).splitlines()[0]
        raise InputError(f"--topology={topology.name}: libtpu knows no such slice: {why}") from None


def planned_for(config: Config, topology: Topology, material: Material) -> Planned:
    """What a configuration runs on a slice; `prepare_target` comes before.

    Raises InputError for a mesh, a model or a slice that cannot be.
    """
    mesh = make_mesh(config.mesh, devices_of(topology))
    if config.pretrain.epochs:  # as a run checks it
        check_batch("pretrain.rows", config.pretrain.rows, mesh, config.pretrain.grad_accum_steps)
    judge = shape_of(config.judge.path, "judge.path") if config.judge.path else None
    rewriter = shape_of(config.rewriter.path, "rewriter.path") if config.rewriter.path else None
    kernel = kernel_for(topology.chip.kind, config.platform, topology.chip.capability)
    chip = topology.chip
    room = config.platform.decoding_memory * chip.told * chip.hbm
    return planned(config, shape_for(config), judge, material, mesh, Chosen(kernel, room), rewriter)


def versions() -> list[str]:
    """What a compiled program depends on beside itself."""
    packages = [f"{name} {version(name)}" for name in ("jax", "jaxlib", "libtpu")]
    return packages + [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
