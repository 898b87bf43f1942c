"""Text files as bytes from any offset on: plain or packed, on a disk or in a store."""

import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.facts.files import Damaged, opened

CHUNK = 1 << 20  # bytes read at a time
SMALL = 1 << 16  # bytes unpacked at a time: what is lost where a file breaks off


class _Reading(io.RawIOBase):
    """The bytes of an opened file. Where it fails, that may pass: it is an InputError, and no damage."""

    def __init__(self, place: str, file: Any) -> None:
        self._place, self._file = place, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as error:  # every store has errors of its own
            raise InputError(f"cannot read {self._place} to its end: {first_line(error)}") from None
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened_at(place: str, offset: int = 0) -> Generator[BinaryIO]:
    """The bytes of a text file, unpacked where its name ends in .gz or .zst, from an offset of these on.

    A plain file is sought in, others are read up to there.

    Raises:
        InputError: if the file cannot be opened, or not be read for a reason that may pass.
        Damaged: within, where what is packed is broken.
    """
    packed = place.lower().endswith((".gz", ".zst"))
    with opened(place, unpack=False) as raw:
        if offset and not packed:
            raw.seek(offset)
        file: Any = io.BufferedReader(_Reading(place, raw), CHUNK)
        try:
            if packed:
                file = _unpacked(place, file)
                while offset and (skipped := file.read(min(offset, SMALL))):
                    offset -= len(skipped)
            yield file
        except (OSError, EOFError, zlib.error) as error:  # of the unpacking
            raise Damaged(f"cannot read {place} to its end: {first_line(error)}") from None


def _unpacked(place: str, file: Any) -> Any:
    """The file unpacked, in blocks: how much of a broken one is whole depends on nobody who reads it."""
    if place.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"reading {place} needs pyarrow: pip install 'pretrainrl_jax[data]'") from None
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    return io.BufferedReader(stream, SMALL)


def lines(file: BinaryIO, keep: int) -> Iterator[tuple[bytes, int]]:
    """Each line with its end, of a longer one its first `keep` bytes, and its length in bytes."""
    while piece := file.readline(CHUNK):
        line, length = bytearray(piece[:keep]), len(piece)
        while not piece.endswith(b"\n") and (piece := file.readline(CHUNK)):
            length += len(piece)
            line += piece[: max(0, keep - len(line))]
        yield bytes(line), length
