"""Devices that are not here, and what a configuration runs on them."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jax.experimental import topologies

from pretrainrl_jax.config import Config, PlatformConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.programs import Planned, planned
from pretrainrl_jax.planning.shapes import shape_for, shape_of
from pretrainrl_jax.planning.typical import questions
from pretrainrl_jax.platforms import flags_for, kernel_for


def prepare_target(topology: Topology, settings: PlatformConfig) -> None:
    """Set what libtpu reads when it is loaded, before JAX starts its backend, which is this machine's CPU.

    Raises:
        InputError: if libtpu is not installed.
    """
    if topology.chip.kind == "tpu":
        try:
            version("libtpu")
        except PackageNotFoundError:
            how = "pip install 'pretrainrl_jax[plan]'"
            raise InputError(f"plan compiles for TPUs with libtpu, which is not installed: {how}") from None
        os.environ.update(flags_for("tpu", settings, os.environ))
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # nothing is driven: several may compile at a time
        }
    os.environ["JAX_PLATFORMS"] = "cpu"


def devices_of(topology: Topology) -> Sequence[Any]:
    """The slice's devices, which only stand for those that will be there.

    Raises:
        InputError: if libtpu does not know such a slice.
    """
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
    except Exception as error:
        why = str(error).splitlines()[0]
        raise InputError(f"--topology={topology.name}: libtpu knows no such slice: {why}") from None


def planned_for(config: Config, topology: Topology) -> Planned:
    """What a configuration runs on a slice; `prepare_target` comes before.

    Raises:
        InputError: for a mesh, a model or a slice that cannot be.
    """
    mesh = make_mesh(config.mesh, devices_of(topology))
    judge = shape_of(config.judge.path, "judge.path") if config.judge.path else None
    return planned(
        config, shape_for(config), judge, questions(config), mesh, kernel_for("tpu", config.platform)
    )


def versions() -> list[str]:
    """What a compiled program depends on beside itself."""
    packages = [f"{name} {version(name)}" for name in ("jax", "jaxlib", "libtpu")]
    return packages + [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
