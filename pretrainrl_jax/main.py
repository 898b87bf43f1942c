"""The command line.

    python -m pretrainrl_jax.main [VERB] [--config FILE.py] [--workdir DIR] [--section.key=value …]

Everything that can be checked without JAX is checked before it is imported.
"""

import errno
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from pretrainrl_jax.command_line import as_typed, help_for, parse
from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.stages import check
from pretrainrl_jax.storage import of_bucket
from pretrainrl_jax.training.interrupts import Interrupted, termination_interrupts
from pretrainrl_jax.verbs import VERBS

PIPE = 128 + 13  # what shells give a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives its exit code: 0 done, 1 failed, 2 bad usage or input, 130 interrupted.

    141 where nobody reads what it prints.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's remarks, before JAX is imported
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = as_typed(arguments)
    try:
        if shown := help_for(arguments):
            print(shown)
        else:
            read = parse(arguments)
            if read.verb != "plan":  # whose models need not be here
                check.model(read.config)
            with termination_interrupts(read.config.checkpoint.grace_seconds, read.text):
                VERBS[read.verb].run(read)
    except InputError as error:
        return _ended(2, f"error: {_one_line(error)}")
    except KeyboardInterrupt:
        return _ended(130, f"interrupted; what is finished is kept. Go on with: {command}")
    except Interrupted as stopped:
        return _ended(130, f"interrupted: {stopped}. Go on with: {command}", planned=True)
    except (OSError, FloatingPointError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return _ended(PIPE)  # as `… | head` ends every program
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = f"; checkpoints saved before are kept. Make room, then go on with: {command}" if full else ""
        return _ended(1, f"failed: {_one_line(error)}{hint}")
    except Exception as error:
        if of_bucket(error):
            return _ended(1, f"failed: the bucket: {first_line(error)}")
        if (hosts := _hosts()) is None or hosts.current() is None:
            raise
        hosts.watch.explained(error)  # by the end of another process, which then ends this one, too
        traceback.print_exc()
        return _ended(1, f"failed: {type(error).__name__}: {_one_line(error)}")
    return _ended(0)


def _unread() -> bool:
    """Whether nobody reads standard output any more; what is left to be written there is then let go."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return gone


def _hosts() -> Any:
    """What knows of the other processes; None where no work was begun that could have any."""
    return sys.modules.get("pretrainrl_jax.hosts.join")


def _ended(code: int, message: str = "", planned: bool = False) -> int:
    """The exit code, with the message said; one process of several ends here, together with the others."""
    if hosts := _hosts():
        hosts.leave(code, message, planned)
    if message:
        print(message, file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())  # whatever it quotes


def program(arguments: Sequence[str] | None = None) -> int:
    """`main` as a process of its own, which is to end with the exit code.

    An interrupted one ends at once: XLA may still compute what was asked of it, and Python's own end would
    take it the memory (a segmentation fault, and another exit code). What is to be kept is closed by then.
    """
    code = main(arguments)
    if code == 130:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(program())
