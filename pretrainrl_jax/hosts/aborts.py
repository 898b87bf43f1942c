"""Time to say why, before JAX aborts this process because process 0 has died.

JAX does so within a second, from the thread that also brings the answers of process 0, and no setting
prevents it. So SIGABRT (signal 6) is handled by the C function sleep, called with the number of the signal:
that thread sleeps 6 seconds, without Python, and aborts then if the process is still there.
"""

import ctypes
import signal
from contextlib import suppress
from pathlib import Path


def delay_aborts() -> None:
    """From now on an abort of this process, for whatever reason, comes 6 seconds later."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def aborting() -> bool:
    """Whether a thread is within those 6 seconds; not to be known but on Linux.

    Such a thread blocks SIGABRT; some threads block all signals always.
    """
    for status in Path("/proc/self/task").glob("*/status"):
        with suppress(OSError):  # it has ended
            blocked = int(status.read_text().partition("SigBlk:")[2].split()[0], 16)
            if blocked >> (signal.SIGABRT - 1) & 1 and not blocked >> (signal.SIGTERM - 1) & 1:
                return True
    return False
