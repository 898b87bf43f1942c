"""From a checked command line to a stage at work: processes, devices, mesh, workdir."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax

from pretrainrl_jax.cells import cells
from pretrainrl_jax.command import Command
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.tasks import Task
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.hosts.agree import gather, is_process_0, process_count, run_on_process_0
from pretrainrl_jax.hosts.join import join
from pretrainrl_jax.hosts.maintenance import watch_maintenance
from pretrainrl_jax.judge_bench.labelled import Labelled
from pretrainrl_jax.kept_programs import keep_programs
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.mesh import check_batch, make_mesh
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.target import prepare_target
from pretrainrl_jax.platforms import kernel_for, prepare, room_for
from pretrainrl_jax.preferences.reading import Preferences
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.asking import ask
from pretrainrl_jax.stages.bench import bench
from pretrainrl_jax.stages.check import creates
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.hugging_face import export_model, import_model
from pretrainrl_jax.stages.make import make
from pretrainrl_jax.stages.material import evaluate, mine
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.selfimprove import selfimprove
from pretrainrl_jax.stages.sweep import run, sweep
from pretrainrl_jax.stages.train import train
from pretrainrl_jax.stages.tune import tune
from pretrainrl_jax.trees.templates import Examples
from pretrainrl_jax.workdir import locked, prepare_workdir

STAGES = {
    "run": run,
    "pretrain": pretrain,
    "mine": mine,
    "train": train,
    "evaluate": evaluate,
    "selfimprove": selfimprove,
}


def begin(
    command: Command,
    facts: Sequence[Fact] = (),
    preferences: Preferences | None = None,
    head: Sequence[Fact] = (),
) -> Context:
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
    where = command.workdir, mesh, facts, screen, command.text, chosen
    return Context(config, *where, preferences, head)


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
    command: Command,
    facts: Sequence[Fact],
    preferences: Preferences | None = None,
    head: Sequence[Fact] = (),
) -> None:
    """Run a verb on what was read; raises Interrupted if a training was stopped and saved."""
    config, options, workdir = command.config, command.options, command.workdir
    context, create = begin(command, facts, preferences, head), creates(command)
    if config.pretrain.epochs:  # else no row of it is ever made
        check_batch("pretrain.rows", config.pretrain.rows, context.mesh, config.pretrain.grad_accum_steps)
    with held(workdir, lambda: prepare_workdir(workdir, config, create)):
        if command.verb == "run" and cells(config):
            sweep(context)
        elif command.verb == "selfimprove" and options.train:
            tune(context, options.train)
        elif command.verb == "selfimprove" and options.make:
            make(context, options.make)
        else:
            STAGES[command.verb](context)


def start_import(command: Command) -> None:
    """Import a model from Hugging Face."""
    context = begin(command)
    with held(command.workdir):
        import_model(command.options.model, command.workdir, context.mesh, context.screen)


def start_export(command: Command) -> None:
    """Export a model to Hugging Face."""
    context = begin(command)
    source, target = command.options.model or command.workdir, Path(command.options.to)
    export_model(source, target, command.config.export, context.mesh, context.screen)


def start_harness(command: Command, tasks: Sequence[Task]) -> None:
    """Standard evaluations of the workdir's systems, or of the model that is named."""
    from pretrainrl_jax.stages.harness import evaluate_model, harness  # needs the extra `eval`

    context = begin(command)
    with held(command.workdir):
        if path := command.given.get("model.path"):
            evaluate_model(context, path, command.given.get("model.dtype", ""), tasks)
        else:
            harness(context, tasks)


def start_bench(command: Command, labelled: Labelled) -> None:
    """Compare judges on labelled texts."""
    context = begin(command)
    with held(command.workdir):
        bench(context, labelled)


def start_ask(command: Command, kind: str, examples: Examples) -> None:
    """Ask a model, by a kind of template, "" for its own, and examples, none for its own or ours."""
    ask(begin(command), command.options.question, kind, examples)


def start_plan(command: Command, topology: Topology) -> None:
    """Plan a configuration for a slice; this machine's CPU only compiles."""
    config, options = command.config, command.options
    hush()
    prepare_target(topology)
    screen = Screen(options.quiet, options.verbose)
    how = config, topology, screen, options.price_per_chip_hour, options.json
    if options.search is None:
        from pretrainrl_jax.stages.plan import plan  # what it compiles for must be known before

        plan(*how)
    else:
        from pretrainrl_jax.stages.search_plan import search_plan

        search_plan(*how, options.search)


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
