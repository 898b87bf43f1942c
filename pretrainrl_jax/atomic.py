"""Files that are complete or not there at all, whenever the process or the machine stops.

In a bucket every object is so by itself.
"""

import errno
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import first_line
from pretrainrl_jax.storage import in_bucket, of_bucket


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; what stood there before stays until all of it is on the disk."""
    if in_bucket(path):
        with disk_errors():
            path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8."""
    # "replace": a model may write half of a surrogate pair, which has no UTF-8.
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """The same for JSON. Large files that nobody reads take None: they are written ten times as fast."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False))


@contextmanager
def disk_errors() -> Generator[None]:
    """Within it what storage libraries raise for a full or a read-only disk, or a bucket, is an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of a kind of their own
        text = str(error)
        if of_bucket(error):
            raise OSError(errno.EIO, first_line(error)) from None
        named = [int(code) for code in re.findall(r"os_error_code='(\d+)'", text)]
        named += [code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
                  if os.strerror(code) in text]  # fmt: skip
        if not named:
            raise
        path = re.search(r'local file "([^"]*)"|writing (\S+?);', text)
        raise OSError(named[0], os.strerror(named[0]), path and (path[1] or path[2])) from None
