"""Folders on a disk or in a bucket of Cloud Storage: what the two do not share is done here for both.

A path in a bucket has the interface of pathlib (`bucket_path`), and Orbax knows it as it is. A bucket has no
folders but those of the names in it, nothing can be appended to, and what is written is there at once and
whole, or not at all.
"""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, cast

from pretrainrl_jax.errors import InputError

BUCKET = "gs://"
# In what TensorStore raises of a bucket that cannot be asked.
STATUSES = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


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
    if found := re.search(r"[*?\[\]#]", text):
        raise InputError(f"{option}={text}: a name in a bucket with {found[0]} means something else there")
    # TensorFlow's own access to buckets, where it is installed, and another of gcsfs that asks by gRPC first
    # what kind of bucket it is.
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    for name in ("gcsfs", "google"):  # what they raise is told in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        import fsspec.config
        import gcsfs  # pyright: ignore  # noqa: F401
        from google.cloud import storage  # pyright: ignore  # noqa: F401
    except ImportError as error:
        raise InputError(f"{option}={text}: {error}: pip install 'pretrainrl_jax[gcs]'") from None
    # What other processes write is seen at once.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    from pretrainrl_jax.bucket_path import BucketPath

    return cast(Path, BucketPath(text.rstrip("/")))


def in_bucket(path: PurePath) -> bool:
    """Whether a path is one of a bucket."""
    return str(path).startswith(BUCKET)


def of_bucket(error: BaseException) -> bool:
    """Whether an exception is one of the packages that read and write buckets."""
    if type(error).__module__.partition(".")[0] in ("gcsfs", "aiohttp", "requests", "google", "fsspec"):
        return True
    return BUCKET in str(error) and any(status in str(error) for status in STATUSES)


def unreachable(error: BaseException) -> bool:
    """Whether an exception says that a bucket could not be asked, and not that something there is wrong."""
    while True:
        if of_bucket(error) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
            return True
        if any(status in str(error) for status in STATUSES):
            return True
        if (cause := error.__cause__ or error.__context__) is None:
            return False
        error = cause


def split(path: PurePath) -> tuple[str, str]:
    """The bucket of a path, and the object's name in it."""
    bucket, _, name = str(path).removeprefix(BUCKET).partition("/")
    return bucket, name


def names_in(folder: Path) -> list[str]:
    """The names of what is in a folder; none where there is none."""
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def probe(folder: Path) -> None:
    """Read a byte of every file of a folder in a bucket; raises what one that cannot be read raises."""
    found = _store().find(cast(Any, folder).name_there, detail=True)
    names = [name for name, about in found.items() if about["size"]]
    _store().cat_ranges(names, [0] * len(names), [1] * len(names), on_error="raise")


def remove_tree(path: Path) -> None:
    """Remove a folder and all that is in it, or a file, or a link; nothing where there is none."""
    if in_bucket(path):
        cast(Any, path).rmtree(missing_ok=True)
    elif path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def link(target: Path, source: Path) -> None:
    """Let a file or a folder be found at `target` too: by a symbolic link; in a bucket by a copy."""
    if not in_bucket(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
        return
    names = cast(Any, source).below() if source.is_dir() else [""]
    last = [name for name in names if name.endswith(".txt")]  # what says that a step is whole
    last.sort(key=lambda name: -name.count("/"))
    for some in filter(None, ([name for name in names if name not in last], *([name] for name in last))):
        _store().copy([str(source / name) for name in some], [str(target / name) for name in some])


def upload(folder: Path, target: Path) -> None:
    """Copy what is in a folder of this machine to one in a bucket."""
    _store().put(f"{folder}/", f"{target}/", recursive=True)


def read_text(path: Path, check: str) -> str:
    """The text of a file. Raises InputError if it cannot be read, naming what is to be checked."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"cannot read {path}: {why}; check {check}") from None


@contextmanager
def spooled(path: Path) -> Generator[Path]:
    """A folder of this machine in which what belongs to `path` is written, and kept there when left."""
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        upload(Path(folder), path)


@contextmanager
def fetched(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Generator[Path]:
    """A file or a folder as one of this machine, for what reads no other; of a folder what is wanted."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        names = filter(wanted, cast(Any, path).below()) if path.is_dir() else [""]
        places = [(str(path / name), str(local / name)) for name in names]
        _store().get([there for there, _ in places], [here for _, here in places])
        yield local


def _store() -> Any:
    import fsspec

    return fsspec.filesystem("gcs")


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for what runs of this user may share, as the XDG specification has it."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pretrainrl_jax")
