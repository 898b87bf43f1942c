"""How the processes of a run end together: the first that fails says why, and process 0 goes last."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from pretrainrl_jax.hosts.group import Group

VERDICT = "hosts/verdict"  # set once, by the first process that ends with another code than 0
LEFT = "hosts/left"
LINGER_SECONDS = 5.0
CALL_SECONDS = 3.0
LONGEST = 4000

_ending = threading.Lock()


def claim_end() -> bool:
    """Whether the calling thread is the one to end the process; another one does already if not."""
    return _ending.acquire(blocking=False)


def named(message: str, who: str) -> str:
    """A process's message as process 0 prints it, with the host it comes from."""
    kind, _, rest = message.partition(": ")
    if kind in ("error", "failed"):
        return f"{kind}: {who}: {rest}"
    if message.startswith("interrupted"):
        return f"interrupted on {who}{message.removeprefix('interrupted')}"
    return f"{who}: {message}"


def default_message(group: Group, code: int) -> str:
    """What is said of a process that ends with this code and gives no message."""
    said = "interrupted; what is finished"
    if code != 130:
        said = f"failed: it ended with exit code {code}; what is saved"
    return f"{said} is kept. Go on with: {group.command}"


def tell(group: Group, code: int, line: str) -> bool:
    """Make all processes end with this code, unless they do already; False where it cannot be told."""
    verdict = json.dumps({"index": group.index, "code": code, "line": line[:LONGEST]})
    return bounded(lambda: group.store.claim(VERDICT, verdict), CALL_SECONDS)


def say(line: str) -> None:
    """One line on stderr, even where another thread holds stderr for ever."""
    bounded(lambda: print(line, file=sys.stderr, flush=True), 1.0)


def finish(group: Group, code: int) -> NoReturn:
    """End this process now; process 0 waits for the others first, since they need the keys that it keeps."""
    try:
        bounded(lambda: (sys.stdout.flush(), sys.stderr.flush()), 1.0)
        if group.index and 0 not in group.dead:
            bounded(lambda: group.store.put(f"{LEFT}/{group.index}", str(code)), CALL_SECONDS)
        if group.index == 0:
            bounded(lambda: _linger(group), LINGER_SECONDS)
    finally:  # whatever comes in between, as a second Ctrl-C
        os._exit(code)


def _linger(group: Group) -> None:
    while len(group.dead | set(group.store.list(LEFT))) < group.count - 1:
        time.sleep(0.02)


def bounded(work: Callable[[], Any], seconds: float) -> bool:
    """Do work that may hang; tells whether it was done, without an error, in that time."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        except Exception:  # the process ends, and there is no one to tell
            return
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return done.is_set()
