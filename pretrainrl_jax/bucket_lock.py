"""One writer of a folder in a bucket: an object that its holder renews, and that ends with its holder.

Each change of the object names the generation that it replaces, so that of two that try one fails. A holder
that is alive renews it every `RENEWED` seconds. Who finds it taken watches whether that happens: no clocks
are compared. Who could not renew it for `LOST` seconds no longer holds it, and stops before another may take
it.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import split

RENEWED = 20.0  # seconds
LOST = 60.0  # of trying to renew: the holder stops
DEAD = 90.0  # without renewal, seen from outside: another takes over


class Taken(Exception):
    """Another process changed the object first."""


def owner() -> str:
    """This process, in words."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def held(path: Path, stop: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within this context the object is this process's.

    Args:
        stop: called, from a thread, where it no longer is; by default it ends the process at once with
            code 1, since nothing may be written any more.

    Raises:
        InputError: if another process holds it and is alive.
        OSError: if the bucket cannot be reached.
    """
    blob = _Object(path)
    generation = _take(blob, path)
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(blob, generation, path, done, stop or _end), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        with suppress(Taken, OSError):
            blob.delete()


def _take(blob: "_Object", path: Path) -> int:
    """Make the object, or take over one that nobody renews; gives its generation."""
    told = False
    while True:
        with suppress(Taken):
            return blob.write(0)
        seen = blob.read()
        if seen is None:
            continue  # given back in between
        generation, by = seen
        if not told:
            _say(f"{path} is held by {by}: waiting up to {DEAD:g} s to see whether it lives")
            told = True
        began = time.monotonic()
        while time.monotonic() - began < DEAD:
            time.sleep(min(1.0, DEAD / 10))
            now = blob.read()
            if now is None:
                break
            if now[0] != generation:
                raise InputError(
                    f"--workdir={path.parent} is in use by {now[1]}: wait until it ends, stop it, or choose "
                    "another"
                )
        else:
            with suppress(Taken):
                taken = blob.write(generation)
                _say(f"{path}: {by} is gone, and its lock was taken over")
                return taken


def _keep(
    blob: "_Object", generation: int, path: Path, done: threading.Event, stop: Callable[[str], None]
) -> None:
    """Renew the object until `done`, and say where that is not possible."""
    renewed, why = time.monotonic(), ""
    while not done.wait(min(RENEWED, LOST / 3)):
        try:
            began = time.monotonic()
            generation = blob.write(generation)
            renewed = began
        except Taken:
            now = blob.read()
            if now is not None and now[1] == owner():  # this renewal arrived, and its answer did not
                generation, renewed = now[0], time.monotonic()
                continue
            return stop(f"{path} was taken by {now[1] if now else 'another process'}")
        except OSError as error:
            why = str(error)
        if time.monotonic() - renewed > LOST:
            return stop(f"{path} could not be renewed for {LOST:g} s ({why})")
    blob.generation = generation
    return None


def _end(why: str) -> None:
    """End the process: no checkpoint is saved, since another may be writing them."""
    _say(f"failed: {why}: this process stops and writes nothing more")
    os._exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Object:
    """The object of a lock, whose errors are `Taken` and OSError."""

    def __init__(self, path: Path) -> None:
        from google.cloud import storage  # pyright: ignore

        bucket, name = split(path)
        with _told():
            self._client: Any = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "none")
        self._bucket, self._name = self._client.bucket(bucket), name
        self.generation = 0

    def write(self, generation: int) -> int:
        """Replace that generation, 0 for none; gives the new one. Raises Taken where it is another."""
        blob = self._bucket.blob(self._name)
        with _told():
            blob.upload_from_string(owner(), if_generation_match=generation, timeout=LOST / 3, retry=None)
        self.generation = int(blob.generation)
        return self.generation

    def read(self) -> tuple[int, str] | None:
        """Its generation and who holds it; None where there is none."""
        from google.api_core.exceptions import NotFound  # pyright: ignore

        with _told():
            try:
                blob = self._bucket.get_blob(self._name, timeout=LOST / 3)
                return None if blob is None else (int(blob.generation), blob.download_as_bytes().decode())
            except NotFound:
                return None

    def delete(self) -> None:
        """Give it back, where it still is this process's."""
        blob = self._bucket.blob(self._name)
        with _told():
            blob.delete(if_generation_match=self.generation, timeout=LOST / 3)


@contextmanager
def _told() -> Iterator[None]:
    """Within it what the client raises is Taken or an OSError."""
    from google.api_core import exceptions  # pyright: ignore
    from google.auth.exceptions import GoogleAuthError  # pyright: ignore
    from requests import RequestException

    try:
        yield
    except exceptions.PreconditionFailed:
        raise Taken from None
    except (exceptions.GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise OSError(next(iter(str(error).splitlines()), type(error).__name__)) from None
