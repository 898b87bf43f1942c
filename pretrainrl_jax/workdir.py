"""A workdir belongs to one configuration, and to one process at a time."""

import errno
import fcntl
import json
import os
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pretrainrl_jax import bucket_lock
from pretrainrl_jax.atomic import write_json, write_text
from pretrainrl_jax.config import NAMED, Config, stored
from pretrainrl_jax.config.messages import explained
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import in_bucket
from pretrainrl_jax.version import STAMP, check_format

LOCK = "lock"
IMPROVED = ("selfimprove", "tuning")  # stages of `selfimprove`
IMPROVES = {*IMPROVED, "rewriting"}  # results that settings of these alone decide


def anchor_file(workdir: Path) -> Path:
    return workdir / "mined" / "anchor.npz"


def called(model: str) -> str:
    """What a model is called: as its folder, however the way there is written."""
    return Path(os.path.abspath(model)).name


def spends_as(folder: Path) -> str:
    """The name under which what a folder's run pays to servers is noted: drawn once, kept in `run.txt`."""
    path = folder / "run.txt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, uuid.uuid4().hex)
    return path.read_text().strip()


def has_begun(workdir: Path) -> bool:
    """Whether a command left more in a workdir than its configuration."""
    if not (workdir / "config.json").is_file():
        return False
    return not {path.name for path in workdir.iterdir()} <= {"config.json", LOCK}


def read_workdir(workdir: Path) -> Config:
    """The configuration a workdir was made with.

    Raises InputError if it has none, or one of another version.
    """
    path = workdir / "config.json"
    try:
        return stored.from_flat(_read(path))
    except ValidationError as error:
        written = json.loads(path.read_text(encoding="utf-8")).get("version", "an older version")
        raise InputError(
            f"{path}, of {written}: {explained(error)}. Use that version, or choose another --workdir"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    """A config.json as flat settings under today's names."""
    if not path.is_file():
        none = f"{path.parent} is no workdir (it has no config.json)"
        raise InputError(f"{none}: run `pretrain` or `run` first")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        check_format(path, values)
        return stored.upgraded(stored.flat(values))
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{path} is not the JSON of a configuration: choose another --workdir") from None


def check_workdir(workdir: Path, config: Config, create: bool) -> bool:
    """Whether the workdir's config.json is still to be written; nothing is.

    Where a run stopped before it left anything, the workdir is taken over. Objectives and methods may come
    and go, and change as long as none of that name was trained here.

    Raises InputError if it belongs to another configuration (the differences are shown), or is not there.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"cannot write to --workdir={workdir}: it is no folder")
    if create and not has_begun(workdir):
        return True
    before, now = _read(path), stored.flat(stored.resolved(config))
    both = set(stored.named_sections(before)) & set(stored.named_sections(now))
    both = {named for named in both if _trained(workdir, *named)}  # the others are still to be made
    free = [item.name for item in stored.every_setting(config) if not stored.matters(item.results, config)]
    free += _unmade(workdir, config)
    free += [name for name in {*before, *now} if not both.issuperset(stored.named_sections([name]))]
    for name in free:
        before[name] = now[name] = None
    if differ := stored.shown_differences(before, now):
        raise InputError(f"{workdir} belongs to another configuration: {differ}. Choose another --workdir")
    return False


def prepare_workdir(workdir: Path, config: Config, create: bool) -> None:
    """Make the workdir with its config.json, or check that it belongs to this configuration.

    Raises InputError: as `check_workdir`, or if it cannot be written.
    """
    path = workdir / "config.json"
    changed = check_workdir(workdir, config, create)
    if not changed:
        # An objective that was trained here stays known, with its coefficients, and a new one becomes so.
        had = read_workdir(workdir)
        named = {of: {**getattr(config, of), **getattr(had, of), **getattr(config, of)} for of in NAMED}
        if not create:  # what only the report shows, and what is still to be made, is as this command says
            unmade = _unmade(workdir, config)
            shown = {
                item.name: item.value
                for item in stored.every_setting(config)
                if item.results == ("report",) or item.name in unmade
            }
            config = stored.changed(had, shown)
        config = replace(config, **named)
        before = json.loads(path.read_text()) if create else STAMP | stored.resolved(had)
        changed = before != STAMP | stored.resolved(config)
    if changed:
        with refused_writing(workdir):
            write_json(path, STAMP | stored.resolved(config))


def _unmade(workdir: Path, config: Config) -> list[str]:
    """The settings of what is still to be made: anchor text, a judge or a rewriter, self-improvement.

    Anchor text was made where a system that has an anchor is there.
    """
    unmade = tuple(f"tuning.{who}." for who in ("judge", "rewriter") if not _begun(workdir, f"tuning/{who}"))
    anchored = [name for name, objective in config.objectives.items() if objective.anchored]
    if not anchor_file(workdir).is_file() and not any(
        _trained(workdir, "objectives", name) for name in anchored
    ):
        unmade += ("anchor.",)
    improves = any(_begun(workdir, kind) for kind in IMPROVED)
    return [
        item.name
        for item in stored.every_setting(config)
        if item.name.startswith(unmade)
        or (item.results and not improves and IMPROVES.issuperset(item.results))
    ]


def _trained(workdir: Path, section: str, name: str) -> bool:
    """Whether a system of that name, an objective or a method, was begun or finished here."""
    kind = {"objectives": "train", "methods": "selfimprove"}[section]
    return _begun(workdir, f"{kind}/{name}")


def _begun(workdir: Path, stage: str) -> bool:
    return (workdir / "checkpoints" / stage).exists()


@contextmanager
def locked(workdir: Path) -> Generator[None]:
    """Within this context no other process can work in the workdir, which is made if it is not there.

    The lock ends with the process, however that ends; in a bucket some time after it.

    Raises InputError if another process is at work there, or nothing can be written there.
    """
    if in_bucket(workdir):
        with bucket_lock.held(workdir / LOCK):
            yield
        return
    with refused_writing(workdir):
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
        with refused_writing(workdir):
            file.truncate(0)
            file.write(bucket_lock.owner())
            file.flush()
        yield


@contextmanager
def refused_writing(workdir: Path) -> Generator[None]:
    """Within it what the disk refuses is an InputError that names --workdir."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to --workdir={workdir}: {error.strerror or error}") from None
