"""Folders on a disk or in a bucket of Cloud Storage: what the two do not share is done here for both.

A path in a bucket is one of etils.epath, with the interface of pathlib. Orbax knows it as it is. A bucket has
no folders but those of the names in it, nothing can be appended to, and what is written is there at once and
whole, or not at all.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, cast

from pretrainrl_jax.errors import InputError

BUCKET = "gs://"


def place(text: str | PurePath, option: str = "--workdir") -> Path:
    """The folder or file of that name, on this machine's disk or, with gs://, in a bucket.

    Raises InputError for another kind of address, and where what reads buckets is not installed.
    """
    if isinstance(text, PurePath):
        return cast(Path, text)
    if "://" not in text and not text.startswith("gs:"):
        return Path(text)
    bucket = text.removeprefix(BUCKET).partition("/")[0] if text.startswith(BUCKET) else ""
    if not bucket:
        raise InputError(f"{option}={text}: give a folder of this machine, or gs://BUCKET/FOLDER")
    try:
        import fsspec.config
        import gcsfs  # pyright: ignore  # noqa: F401
        from google.cloud import storage  # pyright: ignore  # noqa: F401
    except ImportError as error:
        raise InputError(f"{option}={text}: {error}: pip install 'pretrainrl_jax[gcs]'") from None
    # What other processes write is seen at once.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    from etils import epath

    return cast(Path, epath.Path(text.rstrip("/")))


def in_bucket(path: PurePath) -> bool:
    """Whether a path is one of a bucket."""
    return str(path).startswith(BUCKET)


def of_bucket(error: BaseException) -> bool:
    """Whether an exception is one of the packages that read and write buckets."""
    return type(error).__module__.partition(".")[0] in ("gcsfs", "aiohttp", "requests", "google", "fsspec")


def told(error: BaseException) -> str:
    """What such an exception says, in one line."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def split(path: PurePath) -> tuple[str, str]:
    """The bucket of a path, and the object's name in it."""
    bucket, _, name = str(path).removeprefix(BUCKET).partition("/")
    return bucket, name


def absolute(path: Path) -> Path:
    """A path from the root of its disk or bucket on."""
    return path if in_bucket(path) else path.absolute()


def real(path: Path) -> Path:
    """Where a path leads, links followed."""
    return path if in_bucket(path) else path.resolve()


def remove_tree(path: PurePath) -> None:
    """Remove a folder and all that is in it; nothing where there is none."""
    if in_bucket(path):
        cast(Any, path).rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def modified(path: Path) -> float:
    """When a file was written, seconds."""
    return path.stat().st_mtime if not in_bucket(path) else cast(Any, path.stat()).mtime


def files_named(folder: Path, name: str) -> list[Path]:
    """The files of that name in a folder and in all below it."""
    if not in_bucket(folder):
        return [path for path in folder.rglob(name) if path.is_file()]
    return [folder / place for place in _below(folder) if place.rpartition("/")[2] == name]


def link(target: Path, source: Path) -> None:
    """Let a file or a folder be found at `target` too: by a symbolic link; in a bucket by a copy."""
    if not in_bucket(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
    elif source.is_dir():
        # What says that a checkpoint is whole comes last.
        for name in sorted(_below(source), key=lambda name: (name.endswith(".txt"), -name.count("/"))):
            _copy(source / name, target / name)
    else:
        _copy(source, target)


def download(folder: Path, target: Path) -> None:
    """Copy what is in a folder of a bucket to one of this machine."""
    for name in _below(folder):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((folder / name).read_bytes())


def upload(folder: Path, target: Path) -> None:
    """Copy what is in a folder of this machine to one in a bucket."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            (target / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


@contextmanager
def spooled(path: Path) -> Iterator[Path]:
    """A folder of this machine in which what belongs to `path` is written, and kept there when left."""
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        upload(Path(folder), path)


@contextmanager
def fetched_folder(path: Path) -> Iterator[Path]:
    """A folder as one of this machine, for what reads no other."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        download(path, Path(folder))
        yield Path(folder)


@contextmanager
def fetched_file(path: Path) -> Iterator[Path]:
    """A file as one of this machine, for what reads no other."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        local.write_bytes(path.read_bytes())
        yield local


def _below(folder: Path) -> list[str]:
    """The names of all objects below a folder, from there on."""
    import fsspec

    bucket, name = split(folder)
    found = fsspec.filesystem("gcs").find(f"{bucket}/{name}")
    return [path.removeprefix(f"{bucket}/{name}/") for path in found]


def _copy(source: Path, target: Path) -> None:
    import fsspec

    fsspec.filesystem("gcs").copy("/".join(split(source)), "/".join(split(target)))
