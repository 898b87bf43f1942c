"""One writer of a folder in a bucket: an object that its holder renews, and that ends with its holder.

Each change of the object names the generation that it replaces, so that of two that try one fails. A holder
that is alive renews it every `RENEWED` seconds. Who finds it taken watches whether that happens: no clocks
are compared. Who could not renew it for `LOST` seconds no longer holds it, and stops before another may take
it, whatever an attempt that hangs may still do.
"""

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.storage import split

RENEWED = 20.0  # seconds
LOST = 60.0  # without renewal: the holder stops
DEAD = 90.0  # without renewal, seen from outside: another takes over
ANSWER = 15.0  # to wait for one
# Of a machine that was suspended, too, it says how long that was.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Taken(Exception):
    """Another process changed the object first."""


class Seen(NamedTuple):
    """What the object says."""

    generation: int
    by: str  # who holds it, in words
    key: str  # of this holder alone: a restarted one may have the same number and host


def owner() -> str:
    """This process, in words."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def held(path: Path, stop: Callable[[str], None] | None = None) -> Generator[None]:
    """Within this context the object is this process's.

    Where it no longer is, `stop` is called from a thread; by default it ends the process at once with code 1,
    since nothing may be written any more.

    Raises:
        InputError: if another process holds it and is alive, or it may not be written.
        OSError: if the bucket cannot be reached.
    """
    lock = _Object(path)
    _take(lock, path)
    keeper = _Keeper(lock, path, stop or _end)
    try:
        yield
    finally:
        keeper.end()
        with suppress(Taken, OSError, InputError):
            lock.delete()


def _take(lock: "_Object", path: Path) -> None:
    """Make the object, or take over one that nobody renews."""
    told = False
    while True:
        with suppress(Taken):
            return lock.write(0)
        if (seen := lock.read()) is None:
            continue  # given back in between
        if not told:
            _say(f"{path} is held by {seen.by}: waiting up to {DEAD:g} s to see whether it lives")
            told = True
        began = _now()
        while _now() - began < DEAD:
            time.sleep(min(1.0, DEAD / 10))
            now = lock.read()
            if now is None:
                break
            if now.generation != seen.generation:
                raise InputError(
                    f"--workdir={path.parent} is in use by {now.by}: wait until it ends, stop it, or choose "
                    "another"
                )
        else:
            with suppress(Taken):
                lock.write(seen.generation)
                return _say(f"{path}: {seen.by} is gone, and its lock was taken over")


class _Keeper:
    """Renews the object from a thread, and from another one sees that this happens in time."""

    def __init__(self, lock: "_Object", path: Path, stop: Callable[[str], None]) -> None:
        self._lock, self._path, self._stop = lock, path, stop
        self._renewed, self._why = _now(), "no answer"
        self._done = threading.Event()
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._renew, self._watch)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Renew no more."""
        self._done.set()
        self._threads[0].join(ANSWER)

    def _renew(self) -> None:
        while not self._done.wait(min(RENEWED, LOST / 3)):
            try:
                began = _now()
                try:
                    self._lock.write(self._lock.generation)
                except Taken:
                    seen = self._lock.read()
                    if seen is None or seen.key != self._lock.key:
                        self._lose(f"was taken by {seen.by if seen else 'another process'}")
                        return
                    self._lock.generation = seen.generation  # that renewal arrived, and its answer did not
                self._renewed = began
            except Exception as error:  # tried again, until `_watch` ends it
                self._why = str(error)

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, LOST / 20)):
            if _now() - self._renewed > LOST:  # which ends the loop, too
                self._lose(f"could not be renewed for {LOST:g} s ({self._why})")

    def _lose(self, how: str) -> None:
        if not self._done.is_set():
            self._done.set()
            self._stop(f"{self._path} {how}")


def _now() -> float:
    return time.clock_gettime(CLOCK)


def _end(why: str) -> None:
    """End the process: no checkpoint is saved, since another may be writing them."""
    _say(f"failed: {why}: this process stops and writes nothing more")
    os._exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Object:
    """The object of a lock, whose errors are Taken, InputError and OSError."""

    def __init__(self, path: Path) -> None:
        from google.cloud import storage  # pyright: ignore

        self._path, (bucket, self._name) = path, split(path)
        with self._told():
            client: Any = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "none")
        self._bucket = client.bucket(bucket)
        self.key, self.generation = uuid.uuid4().hex, 0

    def write(self, generation: int) -> None:
        """Replace that generation, 0 for none. Raises Taken where it is another."""
        blob, text = self._bucket.blob(self._name), f"{owner()}\n{self.key}\n"
        with self._told():
            blob.upload_from_string(text, if_generation_match=generation, timeout=ANSWER, retry=None)
        self.generation = int(blob.generation)

    def read(self) -> Seen | None:
        """What it says; None where there is none."""
        from google.api_core.exceptions import NotFound  # pyright: ignore

        with self._told():
            try:
                if (blob := self._bucket.get_blob(self._name, timeout=ANSWER, retry=None)) is None:
                    return None
                text = blob.download_as_bytes(timeout=ANSWER, retry=None).decode(errors="replace")
            except NotFound:
                return None
        by, _, key = text.partition("\n")
        return Seen(int(blob.generation), by, key.strip())

    def delete(self) -> None:
        """Give it back, where it still is this process's."""
        blob = self._bucket.blob(self._name)
        with self._told():
            blob.delete(if_generation_match=self.generation, timeout=ANSWER)

    @contextmanager
    def _told(self) -> Generator[None]:
        """Within it what the client raises is Taken, or InputError for what will not change, or OSError."""
        from google.api_core import exceptions  # pyright: ignore
        from google.auth.exceptions import GoogleAuthError  # pyright: ignore
        from requests import RequestException

        try:
            yield
        except exceptions.PreconditionFailed:
            raise Taken from None
        except (exceptions.Forbidden, exceptions.NotFound) as error:
            raise InputError(f"cannot write to --workdir={self._path.parent}: {first_line(error)}") from None
        except (exceptions.GoogleAPIError, GoogleAuthError, RequestException) as error:
            raise OSError(f"{self._path} cannot be reached: {first_line(error)}") from None
