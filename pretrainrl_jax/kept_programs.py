"""Compiled programs, kept between runs in a folder of the user's: JAX's persistent cache, bounded in size."""

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from pretrainrl_jax.config import PlatformConfig
from pretrainrl_jax.storage import user_cache

NONE = "none"  # as a setting: keep none
CPUINFO = Path("/proc/cpuinfo")
FEATURES = ("flags", "Features")  # what x86 and ARM call a processor's
SECONDS = 0.2  # what compiles sooner is compiled again


def keep_programs(settings: PlatformConfig, environment: Mapping[str, str] = os.environ) -> str:
    """Let JAX keep what it compiles, and take what earlier runs compiled. Before the first compilation.

    Programs of another processor have a folder of their own: they may hold instructions that this one lacks.
    A folder that JAX was told of elsewhere (JAX_COMPILATION_CACHE_DIR) stays as it is. Returns why nothing is
    kept, where that was not asked for; else an empty text.
    """
    if settings.programs == NONE or jax.config.values["jax_compilation_cache_dir"]:
        return ""
    chosen = Path(settings.programs) if settings.programs else user_cache(environment) / "programs"
    folder = chosen / processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} may not be written")
    except OSError as error:
        return (
            f"compiled programs are not kept ({error}): give a folder as --platform.programs=FOLDER, "
            f"or --platform.programs={NONE}"
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    jax.config.update("jax_compilation_cache_max_size", int(settings.programs_gigabytes * 10**9))
    compilation_cache.reset_cache()  # what was compiled before may have told JAX that there is none
    return ""


def processor(cpuinfo: Path = CPUINFO) -> str:
    """A name of this kind of processor: a digest of what it can do."""
    told = [platform.machine(), platform.processor()]
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        told += [line for line in lines if line.partition(":")[0].strip() in FEATURES][:1]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
