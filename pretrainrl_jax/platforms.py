"""What is chosen for each kind of device, and what the user chose instead. Imports nothing heavy."""

import glob
import os
import re
from collections.abc import MutableMapping
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
FLAGS = {"gpu": ("XLA_FLAGS", GPU_FLAGS), "tpu": ("LIBTPU_INIT_ARGS", TPU_FLAGS)}  # and who reads them
Kernel = Literal["xla", "cudnn", "splash"]  # of attention
FLASH_CAPABILITY = (8, 0)  # of the GPUs that have cuDNN's flash attention: Ampere, and later ones

GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/dxg")  # the last one under Windows
GPUS = ("gpu", "cuda", "rocm")  # by JAX's names


def prepare(wanted: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the flags for the device that JAX will run on, before it starts its backend.

    JAX may have been imported: it reads them when the first device is asked for. `wanted` is the option
    --platform, which may be empty: then JAX_PLATFORMS tells, or the machine's files.
    """
    asked = wanted or environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if asked in GPUS or (not asked and any(map(glob.glob, GPU_FILES))):
        set_flags("gpu", environ)
    set_flags("tpu", environ)  # which libtpu alone reads


def set_flags(platform: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Put our flags of a platform, gpu or tpu, before those that its variable has.

    Of a flag that is given twice the last one counts. A file of flags that XLA_FLAGS names stays alone.
    """
    variable, flags = FLAGS[platform]
    given, ours = environ.get(variable, "").strip(), " ".join(flags)
    names_file = given and not given.startswith("-")
    if ours not in given and not names_file:
        environ[variable] = f"{ours} {given}".strip()


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
    has: dict[Kernel, bool] = {"splash": platform == "tpu", "cudnn": has_cudnn, "xla": True}
    if settings.attention == "auto":
        return next(kernel for kernel in has if has[kernel])
    if not has[settings.attention]:
        device = f"{platform} of compute capability {capability}" if capability else platform
        raise InputError(f"platform.attention is {settings.attention}: JAX runs on {device}, which has none")
    return settings.attention
