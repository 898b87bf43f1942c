import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pretrainrl_jax import platforms
from pretrainrl_jax.config import PlatformConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.platforms import FLAGS, PROBE, detected, flags_for, kernel_for, prepare, room_for

SCHEDULER = "--xla_gpu_enable_latency_hiding_scheduler"
OURS = PlatformConfig()


def words(variables, name="XLA_FLAGS"):
    return variables.get(name, "").split()


def run(code, **environ):
    """Python code in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environ, capture_output=True, text=True, timeout=600
    )


# Which flags


def test_each_kind_of_device_gets_its_own_list_where_it_is_read():
    assert flags_for("cpu", OURS, {}) == {}
    assert flags_for("gpu", OURS, {}) == {"XLA_FLAGS": " ".join(FLAGS["gpu"])}
    assert flags_for("tpu", OURS, {}) == {"LIBTPU_INIT_ARGS": " ".join(FLAGS["tpu"])}


def test_the_list_is_left_out_and_what_the_user_gives_is_not():
    settings = PlatformConfig(flags=("--xla_dump_to=there",), choose=False)
    assert flags_for("gpu", PlatformConfig(choose=False), {}) == {}
    assert flags_for("gpu", settings, {"XLA_FLAGS": "--xla_a=1"}) == {
        "XLA_FLAGS": "--xla_a=1 --xla_dump_to=there"
    }


def test_the_environment_wins_over_the_list_and_the_settings_over_both():
    environ = {"XLA_FLAGS": f" {SCHEDULER}=false   --xla_a=1 "}
    flags = words(flags_for("gpu", OURS, environ))
    assert f"{SCHEDULER}=false" in flags
    assert "--xla_a=1" in flags
    assert {*FLAGS["gpu"]} - {*flags} == {f"{SCHEDULER}=true"}
    flags = words(flags_for("gpu", PlatformConfig(flags=(f"{SCHEDULER}=7", "--xla_a=2")), environ))
    assert f"{SCHEDULER}=7" in flags
    assert "--xla_a=2" in flags
    names = [flag.partition("=")[0] for flag in flags]
    assert len(set(names)) == len(names) == len(FLAGS["gpu"]) + 1


def test_of_a_flag_that_is_given_twice_the_last_one_is_kept():
    settings = PlatformConfig(flags=("--xla_a=1", "--xla_b", "--xla_a=2"))
    assert flags_for("cpu", settings, {}) == {"XLA_FLAGS": "--xla_a=2 --xla_b"}


def test_flags_of_libtpu_alone_never_reach_xla_which_would_end_the_process():
    settings = PlatformConfig(flags=("--xla_tpu_x=1", "--xla_dump_to=there", "--megascale_y=2"))
    for platform in ("cpu", "gpu", "tpu"):
        changed = flags_for(platform, settings, {"LIBTPU_INIT_ARGS": "--xla_tpu_x=0 --xla_tpu_z"})
        assert words(changed)[-1] == "--xla_dump_to=there"
        assert not any("tpu" in flag or "megascale" in flag for flag in words(changed))
        libtpu = ["--xla_tpu_x=1", "--xla_tpu_z", "--megascale_y=2"]
        assert words(changed, "LIBTPU_INIT_ARGS")[-3:] == libtpu


def test_values_of_the_environment_keep_their_spaces():
    environ = {"XLA_FLAGS": "--xla_dump_to='a folder' --xla_b=\"c d\""}
    flags = flags_for("gpu", OURS, environ)["XLA_FLAGS"]
    assert flags.endswith(environ["XLA_FLAGS"])


def test_nothing_is_set_that_is_set_already():
    changed = flags_for("gpu", OURS, {})
    assert flags_for("gpu", OURS, changed) == {}


@pytest.mark.parametrize(
    "text", ["xla_dump_to=x", "--dump_to=x", "--xla_dump_to=a b", "--xla_=1", "b", "", "--xla_dump_to='x'"]
)
def test_what_is_no_flag_is_refused(text):
    with pytest.raises(InputError, match=re.escape(f"platform.flags has {text!r}")):
        flags_for("cpu", PlatformConfig(flags=("--xla_a", text)), {})


def test_a_file_of_flags_is_left_to_the_user():
    environ = {"XLA_FLAGS": "flags.txt"}
    assert flags_for("gpu", OURS, environ) == {}
    with pytest.raises(InputError, match=r"XLA_FLAGS names the file flags\.txt"):
        flags_for("gpu", PlatformConfig(flags=("--xla_a",)), environ)


# Which device


@pytest.mark.parametrize(
    ("wanted", "environ", "kind"),
    [
        ("tpu", {"JAX_PLATFORMS": "cpu"}, "tpu"),
        ("", {"JAX_PLATFORMS": "cuda,cpu"}, "gpu"),
        ("", {"JAX_PLATFORMS": "CPU"}, "cpu"),
        ("", {"JAX_PLATFORMS": "tpu", "TPU_NAME": ""}, "tpu"),
        ("", {"JAX_PLATFORMS": "something_else"}, "cpu"),
        ("", {"JAX_PLATFORMS": "", "TPU_WORKER_ID": "0"}, "tpu"),
        ("", {}, "cpu"),
    ],
)
def test_the_option_wins_over_the_environment_and_that_over_what_is_there(wanted, environ, kind, monkeypatch):
    monkeypatch.setattr(platforms.glob, "glob", lambda _: [])
    assert detected(wanted, environ) == kind


@pytest.mark.parametrize(
    ("file", "kind"),
    [("/dev/nvidia0", "gpu"), ("/dev/nvidiactl", "gpu"), ("/dev/accel3", "tpu"), ("/dev/vfio/0", "tpu")],
)
def test_devices_are_known_by_their_files(file, kind, monkeypatch):
    def matching(pattern):
        return [file] if re.fullmatch(pattern.replace("*", ".*"), file) else []

    monkeypatch.setattr(platforms.glob, "glob", matching)
    assert detected("", {}) == kind


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
    with pytest.raises(InputError, match=rf"^platform\.attention is splash: JAX runs on {platform}, and"):
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
    known = run(PROBE, XLA_FLAGS=" ".join(FLAGS["gpu"]))
    assert known.returncode == 0, known.stderr
    assert run(PROBE, XLA_FLAGS=f"{SCHEDULER}_x=true").returncode != 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--xla_no_such_flag=1", "XLA has no flag --xla_no_such_flag=1"),
        (f"{SCHEDULER}=7", f"{SCHEDULER} does not take the value '7'"),
    ],
)
def test_what_xla_would_end_the_process_at_is_refused_in_one_line(flag, message):
    environ = {}
    with pytest.raises(InputError, match=re.escape(message)):
        prepare(PlatformConfig(flags=(flag,)), "cpu", environ)
    assert environ == {}


def test_what_goes_wrong_otherwise_is_left_for_later(monkeypatch):
    environ = {}
    monkeypatch.setattr("pretrainrl_jax.platforms.PROBE", "raise SystemExit('no jaxlib here')")
    prepare(PlatformConfig(flags=("--xla_no_such_flag=1",)), "cpu", environ)
    assert "--xla_no_such_flag=1" in environ["XLA_FLAGS"]


def test_flags_reach_xla_though_jax_is_imported(tmp_path):
    """What the environment gives does too, and the probe starts no backend of this process."""
    code = (
        "import jax, os; from pretrainrl_jax.config import PlatformConfig;"
        "from pretrainrl_jax import platforms;"
        f"platforms.prepare(PlatformConfig(flags=('--xla_dump_to={tmp_path}/dumped',)), 'cpu');"
        "print(len(jax.devices()), jax.jit(lambda x: x + 1)(1))"
    )
    ran = run(code, XLA_FLAGS="--xla_force_host_platform_device_count=3", JAX_PLATFORMS="cpu")
    assert ran.stdout.split() == ["3", "2"], ran.stderr
    assert any((tmp_path / "dumped").iterdir())


def test_platforms_imports_no_jax():
    ran = run("import sys; from pretrainrl_jax import platforms; print('jax' in sys.modules)")
    assert ran.stdout.split() == ["False"], ran.stderr
