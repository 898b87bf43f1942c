"""A workdir belongs to one configuration, and to one process at a time."""

import errno
import fcntl
import json
import os
import socket
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pretrainrl_jax import settings
from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import OBJECTIVES, Config, ObjectiveConfig
from pretrainrl_jax.errors import InputError

LOCK = "lock"
# What may change in a workdir: no finished stage depends on it.
FREE = (
    "train.systems", "harness.", "export.", "checkpoint.", "sweep.", "optimizer.nonfinite",
    "mesh.", "hosts.", "platform.", "profile_steps",
)  # fmt: skip
SAMPLED = ("evaluate.every_updates", "evaluate.sample")  # free too, where nothing is chosen by the sample
TOLD = ("label", "words", "above")  # of an objective, free too
# What an objective's settings were called before each term had a name, and settings that came later.
RENAMED = {
    "question_weight": "ntp.question",
    "answer_weight": "ntp.answer",
    "answer_mean_weight": "ntp.answer_mean",
    "preference": "dpo.weight",
    "beta": "dpo.beta",
}
LATER = (*SAMPLED, "evaluate.choose")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's JSON with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def resolved(config: Config | ObjectiveConfig) -> dict[str, Any]:
    """A configuration, or a part of it, as JSON holds it."""
    return json.loads(json.dumps(asdict(config)))


def free(name: str, values: Mapping[str, Any]) -> bool:
    """Whether no finished stage depends on a setting, given all of them, flat: it may change in a workdir."""
    if name in SAMPLED:
        return values.get("evaluate.choose", "last") == "last"
    told = name.startswith("objectives.") and name.rpartition(".")[2] in TOLD
    return told or name.startswith(FREE)


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings, as any version wrote them, with this version's names; what came later has its default.

    An older version told its objectives in the order of `OBJECTIVES`, in whichever it stored them.
    """
    defaults = flat(resolved(Config()))
    found = {_renamed(name): value for name, value in values.items()}
    found |= {name: defaults[name] for name in LATER if name not in found}
    names = objective_names(found)
    if not found.keys() >= values.keys():
        names.sort(key=[*OBJECTIVES, *names].index)
    for of in names:
        told = {item: getattr(OBJECTIVES.get(of, ObjectiveConfig()), item) for item in TOLD}
        own = flat(resolved(ObjectiveConfig(**told)), f"objectives.{of}.")
        own |= {name: found.pop(name) for name in [*found] if name.startswith(f"objectives.{of}.")}
        found |= own
    return found


def _renamed(name: str) -> str:
    section, _, rest = name.partition(".")
    of, _, key = rest.partition(".")
    return f"objectives.{of}.{RENAMED[key]}" if section == "objectives" and key in RENAMED else name


def objective_names(values: Iterable[str]) -> list[str]:
    """The objectives that dotted names of settings are of."""
    parts = (name.split(".") for name in values if name.startswith("objectives."))
    return list(dict.fromkeys(part[1] for part in parts if len(part) > 2))


def read_settings(config: Config, values: Mapping[str, Any], under: str = "") -> Config:
    """The configuration with the settings whose names begin so as flat JSON holds them.

    Raises:
        KeyError, TypeError: for one that is not there, or no list where one must be.
    """
    names = [name for name in objective_names(values) if name not in config.objectives]
    config = replace(config, objectives={**config.objectives, **{name: ObjectiveConfig() for name in names}})
    for name, item, _ in settings.fields_of(config):
        if name.startswith(under):
            value = tuple(values[name]) if typing.get_origin(item.type) is tuple else values[name]
            config = settings.replace_value(config, name, value)
    return config


def shown_differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first few settings that differ between two flat configurations, in words; empty where none does."""
    changed = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in [*now, *(n for n in before if n not in now)]
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")


def read_workdir(workdir: Path) -> Config:
    """The configuration a workdir was made with.

    Raises:
        InputError: if it has none, or one of another version.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir} is no workdir (it has no config.json): run `pretrain` or `run` first")
    try:
        # A workdir may be older than a setting that no stage depends on.
        stored = {name: v for name, v in flat(resolved(Config())).items() if name.startswith(FREE)}
        return read_settings(Config(objectives={}), stored | upgraded(flat(json.loads(path.read_text()))))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not the JSON of this version's settings: choose another workdir"
        ) from None


def check_workdir(workdir: Path, config: Config, create: bool) -> bool:
    """Whether the workdir's config.json is still to be written; nothing is.

    Where a run stopped before it left anything, the workdir is taken over. Objectives may come and go.

    Raises:
        InputError: if it belongs to another configuration (the differences are shown), or is not there.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"cannot write to --workdir={workdir}: it is no folder")
    if not path.is_file():
        if not create:
            raise InputError(
                f"{workdir} is no workdir (it has no config.json): run `pretrain` or `run` first"
            )
        return True
    if create and {p.name for p in workdir.iterdir()} <= {path.name, LOCK}:
        return True
    try:
        before = upgraded(flat(json.loads(path.read_text())))
    except (ValueError, AttributeError):
        raise InputError(f"{path} is not the JSON of a configuration: choose another --workdir") from None
    now = flat(resolved(config))
    in_one = set(objective_names(before)) ^ set(objective_names(now))
    for name in {*before, *now}:
        if free(name, now) or in_one.intersection(objective_names([name])):
            before[name] = now[name] = None
    if differ := shown_differences(before, now):
        raise InputError(f"{workdir} belongs to another configuration: {differ}. Choose another --workdir")
    return False


def prepare_workdir(workdir: Path, config: Config, create: bool) -> None:
    """Make the workdir with its config.json, or check that it belongs to this configuration.

    Raises:
        InputError: as `check_workdir`, or if it cannot be written.
    """
    path = workdir / "config.json"
    changed = check_workdir(workdir, config, create)
    if not changed:
        # An objective that was trained here stays known, with its coefficients, and a new one becomes so.
        had = read_workdir(workdir)
        objectives = {**config.objectives, **had.objectives, **config.objectives}
        config = replace(config if create else had, objectives=objectives)
        added = objectives.keys() - had.objectives.keys()
        # What may change has changed.
        changed = bool(added) or (create and json.loads(path.read_text()) != resolved(config))
    if changed:
        with _refused_writing(workdir):
            write_json(path, resolved(config))


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Within this context no other process can work in the workdir, which is made if it is not there.

    The lock ends with the process, however that ends.

    Raises:
        InputError: if another process is at work there, or nothing can be written there.
    """
    with _refused_writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise InputError(
                f"--workdir={workdir} is in use by {owner}: wait until it ends, stop it, or choose another"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                raise
            print(f"{workdir} knows no locks: see that no other process works there", file=sys.stderr)
        with _refused_writing(workdir):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


@contextmanager
def _refused_writing(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to --workdir={workdir}: {error.strerror}") from None
