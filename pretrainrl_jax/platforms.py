"""What is chosen for each kind of device, and what the user chose instead. Imports nothing heavy."""

import glob
import os
import re
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

from pretrainrl_jax.config import PlatformConfig
from pretrainrl_jax.errors import InputError

# XLA's flags of a GPU. All are marked stable by XLA, and NVIDIA's guide to large models gives them.
GPU_FLAGS = (
    # Computation is scheduled into the time that collectives take, which are asynchronous by themselves.
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    # In the loop over layers, what gathers the next layer's parameters begins in the layer before it.
    "--xla_gpu_enable_pipelined_all_gather=true",
    # What reduces a layer's gradient ends in the layer after it.
    "--xla_gpu_enable_pipelined_reduce_scatter=true",
    "--xla_gpu_enable_pipelined_all_reduce=true",
)
# libtpu's. Overlap within a slice is its own choice: asynchronous collective fusion, which older guides turn
# on by hand, is on where it is sound (v5e), and newer versions refuse to compile with it elsewhere.
TPU_FLAGS = (
    # Weights are gathered whole before a product: in pieces, as XLA does by itself on small slices, each
    # piece's sums go through memory (planned for v6e:4x4: 2.7 times the traffic; docs/plan.md).
    "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",
    # Between slices: gradients' reductions over the data center's network overlap with computation,
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    # and with that of other iterations, whatever their sizes.
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
FLAGS = {"cpu": (), "gpu": GPU_FLAGS, "tpu": TPU_FLAGS}
Kernel = Literal["xla", "cudnn", "splash"]  # of attention
KERNELS: Mapping[str, Kernel] = {"cpu": "xla", "gpu": "cudnn", "tpu": "splash"}
FLASH_CAPABILITY = (8, 0)  # of the GPUs that have cuDNN's flash attention: Ampere, and later ones

LIBTPU = re.compile(r"--(xla_tpu|xla_jf|xla_sc|tpu|megascale)_")  # flags that libtpu alone knows
FLAG = re.compile(r"""--(xla|tpu|megascale)_\w+(=[^\s"']*)?""")
WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")  # of a variable of flags, where quotes keep a space

GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/dxg")  # the last one under Windows
TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE")
KINDS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}  # by JAX's names

# XLA ends the process at a flag it does not know, so another one tries them: this reads XLA_FLAGS, no more.
PROBE = "from jaxlib.xla_client import CompileOptions; CompileOptions()"


def prepare(settings: PlatformConfig, wanted: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment variables of `flags_for`, before JAX starts its backend.

    JAX may have been imported: it reads them when the first device is asked for. `wanted` is the option
    --platform, which may be empty. Raises InputError for a flag that is none, or that XLA does not know.
    """
    changed = flags_for(detected(wanted, environ), settings, environ)
    if settings.flags and "XLA_FLAGS" in changed:
        _try(changed["XLA_FLAGS"])
    environ.update(changed)


def flags_for(platform: str, settings: PlatformConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that are to be changed: XLA_FLAGS, and for libtpu's flags LIBTPU_INIT_ARGS.

    Of a flag that is given twice, platform.flags wins over the environment, which wins over our list.
    `platform` is cpu, gpu or tpu. Raises InputError for text in platform.flags that is no flag, or that
    cannot be added to XLA_FLAGS.
    """
    for text in settings.flags:
        if not FLAG.fullmatch(text):
            how = "without spaces or quotes; one with a comma in its value in a configuration file alone"
            raise InputError(f"platform.flags has {text!r}: give flags as --xla_NAME=VALUE, {how}")
    changed = {}
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        given = environ.get(variable, "")
        chosen, added = (
            [flag for flag in flags if (LIBTPU.match(flag) is None) == (variable == "XLA_FLAGS")]
            for flags in (FLAGS[platform] if settings.choose else (), settings.flags)
        )
        if variable == "XLA_FLAGS" and given.strip() and not given.lstrip().startswith("-"):
            if added:  # XLA reads the flags from a file
                there = f"XLA_FLAGS names the file {given.strip()}"
                raise InputError(f"platform.flags has {added[0]}, and {there}: add the flag to that file")
            continue
        flags = {flag.partition("=")[0]: flag for flag in (*chosen, *WORD.findall(given), *added)}
        if chosen or added:
            changed[variable] = " ".join(flags.values())
    return {name: value for name, value in changed.items() if value != environ.get(name)}


def room_for(settings: PlatformConfig, device: Any) -> float:
    """Bytes of a device for weights to decode from (`whole.takes_copy`); none where it tells no memory."""
    return settings.decoding_memory * (device.memory_stats() or {}).get("bytes_limit", 0)


def kernel_for(platform: str, settings: PlatformConfig, capability: str = "") -> Kernel:
    """The kernel of attention, for `attention.attend`.

    `platform` is JAX's backend; `capability` a CUDA device's `compute_capability`, as 9.0. Raises InputError
    if cuDNN is asked for, and such a device has none, or splash attention, and it is no TPU.
    """
    number = re.fullmatch(r"(\d+)\.(\d+)", capability)
    has_cudnn = number is not None and (int(number[1]), int(number[2])) >= FLASH_CAPABILITY
    if settings.attention == "auto":
        return KERNELS[platform] if has_cudnn or platform != "gpu" else "xla"
    if settings.attention == "splash" and platform != "tpu":
        raise InputError(f"platform.attention is splash: JAX runs on {platform}, and not on a TPU")
    if settings.attention == "cudnn" and not has_cudnn:
        device = f"{platform} of compute capability {capability}" if capability else platform
        needed = "an NVIDIA GPU of compute capability 8.0 or more"
        raise InputError(f"platform.attention is cudnn: JAX runs on {device}, and not on {needed}")
    return settings.attention


def detected(wanted: str, environ: Mapping[str, str]) -> str:
    """The kind of device that JAX will run on, cpu, gpu or tpu, without asking JAX: a guess, and cheap.

    The option --platform and JAX_PLATFORMS are taken at their word; else it is what devices there are.
    """
    if wanted:
        return wanted
    if preferred := environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower():
        return KINDS.get(preferred, "cpu")
    if any(map(glob.glob, GPU_FILES)):
        return "gpu"
    if any(map(glob.glob, TPU_FILES)) or any(map(environ.get, TPU_VARIABLES)):
        return "tpu"
    return "cpu"


def _try(flags: str) -> None:
    """Raises InputError if XLA ends a process with these flags; what else goes wrong is left for later."""
    environ = os.environ | {"XLA_FLAGS": flags}
    try:
        command = [sys.executable, "-c", PROBE]
        tried = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return
    if tried.returncode == 0:
        return
    if match := re.search(r"Unknown flags? in XLA_FLAGS: (.*)", tried.stderr):
        where = "what libtpu alone has goes into the environment variable LIBTPU_INIT_ARGS"
        raise InputError(f"platform.flags, with XLA_FLAGS: XLA has no flag {match[1].strip()}; {where}")
    if match := re.search(r"Couldn't interpret value (.*) for flag (\w+)", tried.stderr):
        raise InputError(f"platform.flags, with XLA_FLAGS: --{match[2]} does not take the value {match[1]!r}")
