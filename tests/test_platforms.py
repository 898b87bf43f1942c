import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pretrainrl_jax import platforms
from pretrainrl_jax.config import PlatformConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.platforms import FLAGS, kernel_for, prepare, room_for, set_flags

SCHEDULER = "--xla_gpu_enable_latency_hiding_scheduler"


def run(code, **environ):
    """Python code in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environ, capture_output=True, text=True, timeout=600
    )


# Which flags


@pytest.mark.parametrize(("platform", "variable"), [("gpu", "XLA_FLAGS"), ("tpu", "LIBTPU_INIT_ARGS")])
def test_flags_go_before_those_of_the_environment_once(platform, variable):
    environ = {variable: " --xla_a='b c' "}
    for _ in range(2):
        set_flags(platform, environ)
        assert environ == {variable: f"{' '.join(FLAGS[platform][1])} --xla_a='b c'"}


def test_a_file_of_flags_stays_alone():
    environ = {"XLA_FLAGS": "flags.txt"}
    set_flags("gpu", environ)
    assert environ == {"XLA_FLAGS": "flags.txt"}


@pytest.mark.parametrize(
    ("wanted", "named", "file", "is_gpu"),
    [
        ("gpu", "cpu", "", True),
        ("tpu", "cuda", "/dev/nvidia0", False),
        ("", "cuda,cpu", "", True),
        ("", "CPU", "/dev/nvidia0", False),
        ("", "", "/dev/nvidia0", True),
        ("", "", "/dev/accel3", False),
    ],
)
def test_a_gpu_is_known_by_the_option_the_variable_or_its_file(wanted, named, file, is_gpu, monkeypatch):
    def matching(pattern):
        return [file] if re.fullmatch(pattern.replace("*", ".*"), file) else []

    monkeypatch.setattr(platforms.glob, "glob", matching)
    environ = {"JAX_PLATFORMS": named}
    prepare(wanted, environ)
    assert ("XLA_FLAGS" in environ) == is_gpu


# Which kernel


@pytest.mark.parametrize(
    ("platform", "setting", "capability", "kernel"),
    [
        ("gpu", "auto", "9.0", "cudnn"),
        ("gpu", "auto", "10.3", "cudnn"),
        ("gpu", "auto", "7.5", "xla"),
        ("gpu", "auto", "gfx942", "xla"),
        ("gpu", "xla", "9.0", "xla"),
        ("gpu", "cudnn", "8.0", "cudnn"),
        ("tpu", "auto", "", "splash"),
        ("tpu", "splash", "", "splash"),
        ("tpu", "xla", "", "xla"),
        ("cpu", "auto", "", "xla"),
        ("METAL", "auto", "", "xla"),  # a plugin that JAX found
    ],
)
def test_the_kernel_of_attention(platform, setting, capability, kernel):
    assert kernel_for(platform, PlatformConfig(attention=setting), capability) == kernel


@pytest.mark.parametrize(("platform", "capability"), [("cpu", ""), ("gpu", "7.5")])
def test_cudnn_is_refused_where_there_is_none(platform, capability):
    with pytest.raises(InputError, match=r"platform\.attention is cudnn") as refused:
        kernel_for(platform, PlatformConfig(attention="cudnn"), capability)
    assert f"JAX runs on {platform}" in str(refused.value)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_splash_is_refused_where_there_is_no_tpu(platform):
    with pytest.raises(InputError, match=rf"^platform\.attention is splash: JAX runs on {platform}"):
        kernel_for(platform, PlatformConfig(attention="splash"), "9.0")


# Room for a copy of the weights


@pytest.mark.parametrize(
    ("told", "share", "room"),
    [({"bytes_limit": 80}, 0.5, 40.0), ({"bytes_limit": 80}, 0.0, 0.0), ({}, 0.5, 0.0), (None, 0.5, 0.0)],
)
def test_room_is_a_share_of_what_a_device_says_it_has(told, share, room):
    device = SimpleNamespace(memory_stats=lambda: told)
    assert room_for(PlatformConfig(decoding_memory=share), device) == room


# XLA itself


def test_xla_knows_every_flag_that_is_chosen_for_a_gpu():
    """Every build of it has the flags of all devices, and ends the process at one that is not among them."""
    probe = "from jaxlib.xla_client import CompileOptions; CompileOptions()"
    known = run(probe, XLA_FLAGS=" ".join(FLAGS["gpu"][1]))
    assert known.returncode == 0, known.stderr
    assert run(probe, XLA_FLAGS=f"{SCHEDULER}_x=true").returncode != 0


def test_flags_reach_xla_though_jax_is_imported_and_those_of_the_environment_win():
    code = (
        "import jax, os; from pretrainrl_jax import platforms;"
        "platforms.FLAGS['gpu'] = 'XLA_FLAGS', ('--xla_force_host_platform_device_count=7',);"
        "platforms.prepare('gpu'); print(len(jax.devices()))"
    )
    for given, count in (("--xla_force_host_platform_device_count=3", "3"), ("", "7")):
        ran = run(code, XLA_FLAGS=given, JAX_PLATFORMS="cpu")
        assert ran.stdout.split() == [count], ran.stderr


def test_platforms_imports_no_jax():
    ran = run("import sys; from pretrainrl_jax import platforms; print('jax' in sys.modules)")
    assert ran.stdout.split() == ["False"], ran.stderr
