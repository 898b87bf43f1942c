"""From a checked command line to a stage at work: devices, mesh, exit codes."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import jax

from pretrainrl_jax.cells import cells
from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.tasks import Task
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.model.partitioning import make_mesh
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.ask import ask
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.evaluate import evaluate
from pretrainrl_jax.stages.export_model import export_model
from pretrainrl_jax.stages.import_model import import_model
from pretrainrl_jax.stages.mine import mine
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.run import run
from pretrainrl_jax.stages.sweep import sweep
from pretrainrl_jax.stages.train import train
from pretrainrl_jax.training.interrupts import Interrupted

STAGES = {
    "run": run,
    "pretrain": pretrain,
    "mine": mine,
    "train": train,
    "evaluate": evaluate,
}


def start(
    verb: str,
    config: Config,
    options: argparse.Namespace,
    facts: Sequence[Fact],
    screen: Screen,
    command: str,
) -> int:
    """Run a verb on the facts that were read and return the exit code.

    `command` is what the user typed: it goes on after an interruption.
    """
    hush()
    greet(options.platform, screen)
    context = Context(config, options.workdir, make_mesh(config.mesh), facts, screen, command)
    try:
        if verb == "run" and cells(config):
            sweep(context)
        else:
            STAGES[verb](context)
    except Interrupted as stopped:
        print(f"interrupted: {stopped}. Go on with: {command}", file=sys.stderr)
        return 130
    return 0


def start_import(config: Config, options: argparse.Namespace, screen: Screen) -> int:
    """Import a model from Hugging Face, and return the exit code."""
    hush()
    greet(options.platform, screen)
    import_model(options.model, options.workdir, make_mesh(config.mesh), screen)
    return 0


def start_export(config: Config, options: argparse.Namespace, screen: Screen) -> int:
    """Export a model to Hugging Face, and return the exit code."""
    hush()
    greet(options.platform, screen)
    source, mesh = options.model or options.workdir, make_mesh(config.mesh)
    export_model(source, Path(options.to), config.export, mesh, screen)
    return 0


def start_harness(
    config: Config, options: argparse.Namespace, tasks: Sequence[Task], screen: Screen, command: str
) -> int:
    """Standard evaluations of the workdir's systems, or of the model that is named; the exit code."""
    from pretrainrl_jax.stages.harness import evaluate_model, harness  # needs the extra `eval`

    hush()
    greet(options.platform, screen)
    context = Context(config, options.workdir, make_mesh(config.mesh), [], screen, command)
    if path := getattr(options, "model.path"):
        evaluate_model(context, path, getattr(options, "model.dtype") or "", tasks)
    else:
        harness(context, tasks)
    return 0


def hush() -> None:
    """Of an error that is raised, and told in one line, storage libraries write pages from their threads."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    shown = sys.unraisablehook

    def of_main_thread(error: "sys.UnraisableHookArgs") -> None:
        if threading.current_thread() is threading.main_thread():
            shown(error)

    sys.unraisablehook = of_main_thread


def answer(config: Config, options: argparse.Namespace, screen: Screen) -> int:
    """Ask a model, and return the exit code."""
    greet(options.platform, screen)
    ask(config, options.workdir, options.question, screen)
    return 0


def greet(wanted: str, screen: Screen) -> None:
    """Say what the run runs on, once that is what was wanted."""
    screen.say(f"backend {check_platform(wanted)}, {jax.device_count()} x {jax.devices()[0].device_kind}")


def check_platform(wanted: str) -> str:
    """The backend JAX runs on.

    Raises:
        InputError: if it is not the one asked for, or none can be started.
    """
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where not even a plugin is installed
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = (str(error).splitlines() or ["no such backend is installed"])[0]
        raise InputError(f"JAX cannot start (JAX_PLATFORMS={asked!r}): {why}") from None
    if wanted and backend != wanted:
        remedy = {
            "cpu": "set JAX_PLATFORMS=cpu",
            "gpu": "install pretrainrl_jax[cuda] on a machine with one",
            "tpu": "install pretrainrl_jax[tpu] on a machine with one",
        }
        raise InputError(f"--platform={wanted}, but JAX found {backend}: {remedy[wanted]}")
    return backend
