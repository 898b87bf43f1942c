"""A path in a bucket, as pathlib has paths: nothing is missing there but what is known to be.

Of etils.epath, which Orbax knows. fsspec, below it, says of what could not be asked that it is not there.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import fsspec
from etils.epath.gpath import PosixGPath


class BucketPath(PosixGPath):
    """gs://bucket/name. What cannot be asked raises the error of that."""

    @property
    def name_there(self) -> str:
        """Bucket and object, as fsspec has it."""
        return str(self).removeprefix("gs://")

    def _info(self) -> dict[str, Any]:
        try:
            return fsspec.filesystem("gcs").info(self.name_there)
        except FileNotFoundError:
            return {}

    def exists(self) -> bool:
        """Whether there is an object of that name, or one below it."""
        return bool(self._info())

    def is_dir(self) -> bool:
        """Whether there is an object below it."""
        return self._info().get("type") == "directory"

    def is_file(self) -> bool:
        """Whether there is an object of that name."""
        return self._info().get("type") == "file"

    def is_symlink(self) -> bool:
        """A bucket has no links."""
        return False

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self

    def below(self) -> list[str]:
        """The names of all objects below, from here on."""
        found = fsspec.filesystem("gcs").find(self.name_there)
        return [name.removeprefix(f"{self.name_there}/") for name in found]

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """All objects below whose own name is of that pattern."""
        return (self / name for name in self.below() if fnmatchcase(name.rpartition("/")[2], pattern))

    def stat(self) -> Any:
        """Length and time of change, as etils and as Python name them."""
        found: Any = super().stat()
        found.st_mtime, found.st_size = found.mtime, found.length
        return found
