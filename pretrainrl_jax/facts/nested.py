"""Values inside values: a dot reaches into objects, into every item of lists, into lists written as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrainrl_jax.facts.written import LISTS, written


def reach(value: Any, path: str) -> Iterator[Any]:
    """Everything that a path leads to."""
    if isinstance(value, str):
        value = written(value)
    if isinstance(value, LISTS):
        for part in value:
            yield from reach(part, path)
    elif isinstance(value, Mapping):
        if path in value:
            yield value[path]
            return
        at = path.find(".")
        while at >= 0:
            if path[:at] in value:
                yield from reach(value[path[:at]], path[at + 1 :])
            at = path.find(".", at + 1)


def cells(values: Mapping[str, Any], path: str) -> list[Any]:
    """What a row holds in a column: one value, several where the path leads through a list, or none."""
    if path in values:
        return [values[path]]
    return list(reach(values, path)) if "." in path else []
