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


def end(group: Group, code: int, line: str, told: bool = False) -> NoReturn:
    """End this process, and all others with the same code unless they are `told` already.

    Process 0 says the line; any other one does if process 0 cannot be told. Where another thread ends this
    process already, this one waits for that.
    """
    while not _ending.acquire(blocking=False):
        time.sleep(60)
    try:
        told = told or _tell(group, code, line)
        if line and (group.index == 0 or not told):
            # Another thread may hold stderr for ever.
            bounded(lambda: print(line, file=sys.stderr, flush=True), 1.0)
        bounded(lambda: (sys.stdout.flush(), sys.stderr.flush()), 1.0)
        if group.index and 0 not in group.dead:
            bounded(lambda: group.store.put(f"{LEFT}/{group.index}", str(code)), CALL_SECONDS)
        if group.index == 0:  # the others need the keys that it keeps
            bounded(lambda: _linger(group), LINGER_SECONDS)
    finally:  # whatever comes in between, as a second Ctrl-C
        os._exit(code)


def _tell(group: Group, code: int, line: str) -> bool:
    """Make all processes end with this code, unless they do already; False where it cannot be told."""
    verdict = json.dumps({"index": group.index, "code": code, "line": line[:LONGEST]})
    return 0 not in group.dead and bounded(lambda: group.store.claim(VERDICT, verdict), CALL_SECONDS)


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
