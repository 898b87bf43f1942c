"""Text files as bytes from any offset on: plain or packed, on a disk or in a store, in any encoding."""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.facts.files import Damaged, opened

CHUNK = 1 << 20  # bytes read at a time
SMALL = 1 << 16  # bytes unpacked at a time: what is lost where a file breaks off
BAD = "documents-bad-bytes"  # what is not in an encoding becomes a byte that is not UTF-8


class _Reading(io.RawIOBase):
    """A file whose bytes a function gives, as many as it is asked for or fewer."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened_at(place: str, offset: int = 0, encoding: str = "utf-8") -> Generator[BinaryIO]:
    """The bytes of a text file, unpacked where its name ends in .gz or .zst, from an offset of these on.

    In an encoding where ASCII's characters are other bytes, as utf-16, they are those of the text in UTF-8.
    A plain file is sought in, others are read up to there.

    Raises:
        InputError: if the file cannot be opened, or not be read for a reason that may pass.
        Damaged: within, where what is packed is broken.
    """
    plain = not place.endswith((".gz", ".zst"))
    direct = plain and not _needs_recoding(encoding)

    def read(size: int) -> bytes:
        try:
            return raw.read(size)
        except Exception as error:  # every store has errors of its own
            raise InputError(f"cannot read {place} to its end: {first_line(error)}") from None

    with opened(place, unpack=False) as raw:
        if direct and offset:
            raw.seek(offset)
        file: Any = io.BufferedReader(_Reading(read), CHUNK)
        try:
            if not plain:
                file = _of_chunks(_unpacked(place, file))
            if _needs_recoding(encoding):
                file = _of_chunks(_recoded(file, encoding))
            left = 0 if direct else offset
            while left and (skipped := file.read(min(left, CHUNK))):
                left -= len(skipped)
            yield file
        except (OSError, EOFError, zlib.error) as error:  # of the unpacking: others are told by `read`
            raise Damaged(f"cannot read {place} to its end: {first_line(error)}") from None


def _of_chunks(chunks: Iterator[bytes]) -> BinaryIO:
    """A file of these bytes. Each chunk is made as it is needed, whoever reads how much: where one cannot be
    made, what was read before does not depend on that."""
    left = b""

    def read(size: int) -> bytes:
        nonlocal left
        left = left or next(chunks, b"")
        data, left = left[:size], left[size:]
        return data

    return io.BufferedReader(_Reading(read), CHUNK)


def _unpacked(place: str, file: Any) -> Iterator[bytes]:
    if place.endswith(".gz"):
        packed = gzip.GzipFile(fileobj=file)
        return iter(lambda: packed.read1(SMALL), b"")
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"reading {place} needs pyarrow: pip install 'pretrainrl_jax[data]'") from None
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    return iter(lambda: stream.read(SMALL), b"")


def _needs_recoding(encoding: str) -> bool:
    """Whether a line's end is not to be found without decoding."""
    ascii_bytes = bytes(range(128))
    try:
        return ascii_bytes.decode(encoding) != ascii_bytes.decode("ascii")
    except UnicodeError:
        return True


def bytes_encoding(encoding: str) -> str:
    """The encoding of the bytes that `opened_at` gives."""
    return "utf-8" if _needs_recoding(encoding) else encoding


def _recoded(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """A file in UTF-8; bytes that are not in its encoding become one that is not in UTF-8."""
    codecs.register_error(BAD, lambda error: ("\udcff", getattr(error, "end", 0)))
    decoder = codecs.getincrementaldecoder(encoding)(BAD)
    ended = False
    while not ended:
        chunk = file.read(SMALL)
        ended = not chunk
        if text := decoder.decode(chunk, final=ended):
            yield text.encode("utf-8", "surrogateescape")


def lines(file: BinaryIO, keep: int) -> Iterator[tuple[bytes, int]]:
    """Each line with its end, of a longer one its first `keep` bytes, and its length in bytes."""
    while piece := file.readline(CHUNK):
        line, length = bytearray(piece[:keep]), len(piece)
        while not piece.endswith(b"\n") and (piece := file.readline(CHUNK)):
            length += len(piece)
            line += piece[: max(0, keep - len(line))]
        yield bytes(line), length
