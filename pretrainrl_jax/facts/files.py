"""Files on a disk or in a bucket, as bytes and lines of text; what is wrong is said with file and line."""

import codecs
import gzip
import io
import os
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

from pretrainrl_jax.config import DocumentsConfig, FactsConfig, PreferencesConfig
from pretrainrl_jax.errors import InputError, first_line

Source = FactsConfig | PreferencesConfig  # what names files of rows
Part = Source | DocumentsConfig  # what names a part of a data set
LINE_END = re.compile("\r\n|\r|\n")


class Row(NamedTuple):
    """What a reader yields: the named values of one line or item of a source."""

    origin: str  # the file and what is counted in it, "data/popQA.tsv, line"; one text for all its rows
    number: int  # which one, 1-based
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """In words: "data/popQA.tsv, line 17"."""
        return f"{self.origin} {self.number}"


class Damaged(InputError):
    """A file that is not what its name says, or that breaks off: what was read of it before is whole."""


@contextmanager
def named_for(section: str, settings: Part) -> Generator[None]:
    """What readers say of settings of facts is of those of this section, where it has them."""
    try:
        yield
    except InputError as error:
        names = "|".join(item.name for item in fields(settings))
        raise InputError(re.sub(rf"\bfacts\.(?=({names})\b)", f"{section}.", str(error))) from None


def is_remote(place: str) -> bool:
    """Whether a path is one of fsspec's, as gs://bucket/file, and not of this machine's disk."""
    return "://" in place


@contextmanager
def opened(place: str, unpack: bool = True) -> Generator[Any]:
    """The bytes of a file, unpacked where its name ends in .gz (in a store also in what else fsspec knows).

    Raises InputError if it cannot be opened, or breaks off while it is read.
    """
    try:
        if is_remote(place):
            with _store_of(place) as fsspec:
                file = fsspec.open(place, "rb", compression="infer" if unpack else None).open()
        else:
            packed = unpack and place.lower().endswith(".gz")
            file = gzip.open(place, "rb") if packed else open(place, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise InputError(f"cannot read {place}: {first_line(error)}; check facts.path") from None
    with file:
        try:
            yield file
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"cannot read {place} to its end: {first_line(error)}") from None


@contextmanager
def _store_of(place: str) -> Generator[Any]:
    """fsspec, which knows the store of a path; what goes wrong there is an InputError."""
    import fsspec

    try:
        yield fsspec
    except ImportError as error:
        needed = f"pretrainrl_jax[{'gcs' if place.startswith(('gs://', 'gcs://')) else 'data'}]"
        raise InputError(f"cannot read {place}: {first_line(error)}: pip install '{needed}'") from None
    except Exception as error:  # every store has errors of its own
        raise InputError(f"cannot read {place}: {first_line(error)}; check facts.path") from None


def is_folder(place: str) -> bool:
    """Whether a path names a folder. Raises InputError if the store it is in cannot be asked."""
    return os.path.isdir(place) if not is_remote(place) else ask(place, "isdir")


def names_in(place: str) -> list[str]:
    """The names of what a folder holds, sorted. Raises InputError if it cannot be listed."""
    try:
        paths = os.listdir(place) if not is_remote(place) else ask(place, "ls", detail=False)
    except OSError as error:
        raise InputError(f"cannot list {place}: {first_line(error)}; check facts.path") from None
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in paths)


def ask(place: str, what: str, **options: Any) -> Any:
    """What the store of a remote path tells of it, by a method of fsspec's. Raises InputError."""
    with _store_of(place) as fsspec:
        system, path = fsspec.core.url_to_fs(place)
        return getattr(system, what)(path, **options)


def text_lines(place: str, encoding: str) -> Iterator[str]:
    """The lines of a text file with their ends (LF, CRLF or CR) as they are; a byte order mark is skipped.

    Raises InputError for an unknown encoding, or naming the line and the byte that is not in it.
    """
    check_encoding(encoding)
    with opened(place) as file:
        try:
            text = io.TextIOWrapper(file, encoding=encoding, newline="")
            yield next(text, "").removeprefix("\ufeff")
            yield from text
        except UnicodeError as error:
            raise InputError(_undecodable(place, encoding, error)) from None


def check_encoding(encoding: str) -> None:
    """The encoding is one that Python knows for text. Raises InputError if it is not."""
    try:
        "".encode(encoding, "ignore")  # refuses "rot13", "zip" and "idna", too: they are not of texts
    except (LookupError, ValueError):
        what = f"facts.encoding is {encoding!r}: name one that Python knows, as utf-8 or latin-1"
        raise InputError(what) from None


def _undecodable(place: str, encoding: str, error: UnicodeError) -> str:
    """Where the file is not in this encoding. It is read again: the error knows but a place in a buffer."""
    with opened(place) as file:
        data = file.read()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and "16" not in encoding:
        how = "save it as UTF-8, or set facts.encoding=utf-16"
        return f"{place}, line 1: a byte order mark says UTF-16: {how}"
    how = "save it as UTF-8, or set facts.encoding"
    try:
        data.decode(encoding)
    except UnicodeError as wrong:
        if not isinstance(wrong, UnicodeDecodeError):
            error = wrong
        elif wrong.start < len(data):
            before = LINE_END.split(data[: wrong.start].decode(encoding, "ignore"))
            where = f"line {len(before)}: byte 0x{data[wrong.start]:02x} at column {len(before[-1]) + 1}"
            return f"{place}, {where} is not {encoding}: {how}"
    return f"{place} is not {encoding} text ({first_line(error)}): {how}"
