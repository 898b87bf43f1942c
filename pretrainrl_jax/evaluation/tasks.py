"""Tasks of the lm-evaluation-harness (the extra `eval`): found by name, their data read. Needs no JAX."""

import contextlib
import difflib
import importlib
import io
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError

MISSING = "the standard evaluations need the lm-evaluation-harness: pip install 'pretrainrl_jax[eval]'"
DATA_SEED, SHOTS_SEED = 0, 1234  # the harness's own: questions and few-shot examples are those of everyone


@dataclass(frozen=True)
class Task:
    """What one name means to the harness: a task, a group of tasks, or all tasks with a tag."""

    name: str
    loaded: dict[str, Any]  # lm_eval's TaskDict: tasks, groups, group_map


def task_names(text: str) -> list[str]:
    """The names of a comma-separated list, each once. Raises InputError if there are none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError("--harness names no task: give one or several, as --harness mmlu,gsm8k,bbh")
    return list(dict.fromkeys(names))


def load_tasks(names: Sequence[str], folder: str | Path = "") -> list[Task]:
    """Tasks with their data, which are fetched from the Hugging Face hub where they are not cached.

    `names` are of tasks, groups or tags, as `lm_eval --tasks list` shows them; `folder` has YAML files of the
    harness, which come before its own tasks; empty for those alone.

    Raises InputError if the harness is not installed or the folder not there, or if a task is unknown, cannot
    be read, would run code that the model writes, or shows pictures.
    """
    if folder and not Path(folder).is_dir():
        raise InputError(f"harness.path is {folder}: no such folder")
    manager = _manager(names, str(folder))
    for name in names:
        if name not in manager.all_tasks:
            near = " or ".join(difflib.get_close_matches(name, manager.all_tasks, n=3))
            meant = f", did you mean {near}?" if near else ""
            raise InputError(f"--harness names {name!r}, which is no task of the harness{meant}")
    return [_load(name, manager) for name in names]


def _manager(names: Sequence[str], folder: str) -> Any:
    # Bars, warnings and processes of the harness and of `datasets` are off.
    for name in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "DISABLE_MULTIPROC"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for name in ("lm_eval", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        tasks = importlib.import_module("lm_eval.tasks")
    except ImportError:
        raise InputError(MISSING) from None
    if folder:
        # The harness's own 14,000 tasks take seconds to list, and only a group may refer to them.
        alone = tasks.TaskManager(include_path=folder, include_defaults=False)
        if set(names) <= set(alone.all_subtasks):
            return alone
    return tasks.TaskManager(include_path=folder or None)


def _load(name: str, manager: Any) -> Task:
    import numpy as np  # not before names and folders are checked

    random.seed(DATA_SEED)
    np.random.seed(SHOTS_SEED)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = manager.load([name])
    except Exception as error:  # what reading a YAML file or fetching a data set raises is any library's
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"--harness={name}: task or data cannot be read: {reason}") from None
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(f"--harness={name} runs code that the model writes: that is not done here")
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"--harness={name} shows pictures, which this model does not see")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return Task(name, loaded)
