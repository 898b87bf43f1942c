"""From a checked command line to a stage at work: processes, devices, mesh, workdir."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import jax

from pretrainrl_jax.cells import cells
from pretrainrl_jax.command import Command
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.hosts.agree import gather, is_process_0, process_count, run_on_process_0
from pretrainrl_jax.hosts.join import join
from pretrainrl_jax.hosts.maintenance import watch_maintenance
from pretrainrl_jax.kept_programs import keep_programs
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.mesh import check_batch, make_mesh
from pretrainrl_jax.platforms import kernel_for, prepare, room_for
from pretrainrl_jax.preferences.reading import Preferences
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.make import make
from pretrainrl_jax.stages.material import evaluate, mine
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.selfimprove import selfimprove
from pretrainrl_jax.stages.sweep import run, sweep
from pretrainrl_jax.stages.train import train
from pretrainrl_jax.stages.tune import tune
from pretrainrl_jax.workdir import locked, prepare_workdir

STAGES = {stage.__name__: stage for stage in (run, pretrain, mine, train, evaluate, selfimprove)}  # by verb


def begin(command: Command) -> Context:
    """Find processes, devices and mesh, and say which; raises InputError if they are not those asked for."""
    config, options = command.config, command.options
    hush()
    prepare(options.platform)
    join(config.hosts, command.text)
    watch_maintenance(config.hosts)
    if process_count() > 1:
        mute_libraries()
    screen = Screen(options.quiet, options.verbose, not is_process_0(), command.began)
    if lost := keep_programs(config.platform):
        screen.warn(lost)
    backend = check_platform(options.platform)
    hosts = f", {process_count()} processes" if process_count() > 1 else ""
    mesh, device = make_mesh(config.mesh), jax.local_devices()[0]
    kernel = kernel_for(backend, config.platform, str(getattr(device, "compute_capability", "")))
    chosen = Chosen(kernel, min(gather(room_for(config.platform, device), "the memory of devices")))
    screen.say(f"backend {backend}, {jax.device_count()} x {jax.devices()[0].device_kind}{hosts}")
    return Context(config, command.workdir, mesh, (), screen, command.text, chosen)


@contextmanager
def held(workdir: Path, prepare: Callable[[], None] = lambda: None) -> Generator[None]:
    """Within it the workdir is this run's alone, and prepared; raises InputError if it is another run's."""
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(locked(workdir))
            prepare()

        run_on_process_0(take, f"taking {workdir}")
        yield


def start(
    command: Command, facts: Sequence[Fact], preferences: Preferences | None = None, head: Sequence[Fact] = ()
) -> None:
    """Run a verb on what was read; raises Interrupted if a training was stopped and saved."""
    config, options, workdir = command.config, command.options, command.workdir
    context = replace(begin(command), facts=facts, preferences=preferences, head=head)
    if config.pretrain.epochs:  # else no row of it is ever made
        check_batch("pretrain.rows", config.pretrain.rows, context.mesh, config.pretrain.grad_accum_steps)
    with held(workdir, lambda: prepare_workdir(workdir, config, command.creates)):
        if command.verb == "run" and cells(config):
            sweep(context)
        elif command.verb == "selfimprove" and options.train:
            tune(context, options.train)
        elif command.verb == "selfimprove" and options.make:
            make(context, options.make)
        else:
            STAGES[command.verb](context)


def hush() -> None:
    """Of an error that is raised, and told in one line, storage libraries write pages from their threads."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    shown = sys.unraisablehook

    def of_main_thread(error: "sys.UnraisableHookArgs") -> None:
        if threading.current_thread() is threading.main_thread():
            shown(error)

    sys.unraisablehook = of_main_thread


def mute_libraries() -> None:
    """Keep standard output for what we say: gloo tells there whom each process is connected to."""
    sys.stdout.flush()
    ours = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding, buffering=1)


def check_platform(wanted: str) -> str:
    """The backend JAX runs on; raises InputError if it is not the one asked for, or none can be started."""
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where not even a plugin is installed
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = (str(error).splitlines() or ["no such backend is installed"])[0]
        raise InputError(f"JAX cannot start (JAX_PLATFORMS={asked!r}): {why}") from None
    if wanted and backend != wanted:
        extra = "cuda" if wanted == "gpu" else wanted
        remedy = f"install pretrainrl_jax[{extra}] on a machine with one"
        remedy = "set JAX_PLATFORMS=cpu" if wanted == "cpu" else remedy
        raise InputError(f"--platform={wanted}, but JAX found {backend}: {remedy}")
    return backend
