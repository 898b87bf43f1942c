"""What the processes of a run do together: one works for all, all tell each other, all wait for all."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.group import Group, current
from pretrainrl_jax.hosts.watch import waiting, working

T = TypeVar("T")

POINTS = "hosts/points"
# A call that waits in C++ keeps Ctrl-C and SIGTERM waiting too.
SLICE_SECONDS = 1.0


def process_index() -> int:
    group = current()
    return group.index if group else 0


def process_count() -> int:
    group = current()
    return group.count if group else 1


def is_process_0() -> bool:
    """Whether this is process 0, which alone prints and writes."""
    return process_index() == 0


def run_on_process_0(work: Callable[[], T], what: str) -> T:
    """Let process 0 work; its result in every process. All must pass here, in the same order.

    The result is of JSON's values: among several processes tuples become lists, and keys texts. `what` names
    the work in messages, in the same words in all processes. An InputError or OSError of the work is raised
    in every process; anything else in process 0 alone, which is to end the run with it.
    """
    group = current()
    if group is None:
        return work()
    if group.index:
        with waiting(what):
            return _result(_hear(group, f"{POINTS}/{group.point + 1}/out", what))
    try:
        with working(what):
            told: dict[str, Any] = {"value": work()}
    except (InputError, OSError) as error:
        _tell(group, what, _packed(error))
        raise
    return _result(_tell(group, what, told))


def gather(value: Any, what: str) -> list[Any]:
    """The (small) JSON values that all processes give, in order of their index. All must pass here."""
    group = current()
    if group is None:
        return [value]
    point = f"{POINTS}/{group.point + 1}"
    with waiting(what):
        if group.index:
            text = json.dumps({"what": what, "value": value})
            group.store.put_text(f"{point}/in/{group.index}", text)
            return _result(_hear(group, f"{point}/out", what))
        rest = [
            _result(_hear(group, f"{point}/in/{index}", what, passes=False))
            for index in range(1, group.count)
        ]
        return _result(_tell(group, what, {"value": [value, *rest]}, all_here=True))


def barrier(what: str) -> None:
    """Go on when all processes have come here."""
    gather(None, what)


def _tell(group: Group, what: str, told: dict[str, Any], all_here: bool = False) -> dict[str, Any]:
    """Say to all what they wait for at the next point; gives it as they read it."""
    text = json.dumps({"what": what, **told})
    group.store.put_text(f"{POINTS}/{group.point + 1}/out", text)
    while all_here and group.tidied < group.point:  # all have read what was told before
        group.tidied += 1
        group.store.drop(f"{POINTS}/{group.tidied}")
    group.point += 1
    return json.loads(text)


def _hear(group: Group, folder: str, what: str, passes: bool = True) -> dict[str, Any]:
    """What another process tells at the next point, once it does. The watch ends a wait that has no end."""
    text = None
    while text is None:
        text = group.store.get_text(folder, SLICE_SECONDS)
    told = json.loads(text)
    if told["what"] != what:
        raise RuntimeError(
            f"{group.who(group.index)} is at {what!r} where another process is at {told['what']!r}: all must "
            "come to the same points in the same order"
        )
    group.point += passes
    return told


def _packed(error: InputError | OSError) -> dict[str, Any]:
    if isinstance(error, InputError):
        return {"input": str(error)}
    name = None if error.filename is None else str(error.filename)
    return {"disk": [str(error)] if error.errno is None else [error.errno, error.strerror, name]}


def _result(told: dict[str, Any]) -> Any:
    if "input" in told:
        raise InputError(told["input"])
    if "disk" in told:
        raise OSError(*told["disk"])
    return told["value"]
