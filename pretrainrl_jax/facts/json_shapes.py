"""Where the rows of a JSON document stand: in a list, inside an object, or as pandas lays out a table."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.nested import reach

TABLE = ("schema", "data")  # pandas, orient="table"


def rows_in(document: Any, place: str, records: str) -> list[Any]:
    """The rows of a parsed document; `records` names the list where there are several, a dot reaches inwards.

    An object without any list of objects is one row. Raises InputError for a document that has no rows, or
    several lists of them.
    """
    if records:
        rows = [
            row for part in reach(document, records) for row in (part if isinstance(part, list) else [part])
        ]
        if not rows:
            raise InputError(f"{place}: no {records} in it (facts.records); {_there(document)}")
        return rows
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise InputError(
            f"{place} holds {kind(document)} where a list of objects should be: check facts.format"
        )
    if (table := _pandas(document)) is not None:
        return table
    lists = dict(_lists(document))
    if len(lists) > 1:
        raise InputError(
            f"{place} holds several lists of objects: {', '.join(lists)}: name one in facts.records"
        )
    return next(iter(lists.values())) if lists else [document]


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _there(document: Any) -> str:
    if not isinstance(document, dict):
        return f"it holds {kind(document)}"
    return f"there are {', '.join(dict(_lists(document)) or document)}"


def _lists(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Every list of objects that lies in objects alone, by its path."""
    for name, value in document.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield before + name, value
        elif isinstance(value, dict):
            yield from _lists(value, f"{before}{name}.")


def _pandas(document: dict[str, Any]) -> list[Any] | None:
    """The rows where columns are lists, or where DataFrame.to_json wrote a table, not a list of records."""
    if set(TABLE) <= document.keys() and isinstance(document["data"], list):
        return document["data"]
    names, data = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(names, row, strict=False)) for row in data]
    inner = list(document.values())
    listed = all(isinstance(value, list) and not any(isinstance(x, dict) for x in value) for value in inner)
    if len(inner) > 1 and listed and len({*map(len, inner)}) == 1:
        return [dict(zip(document, row, strict=True)) for row in zip(*inner, strict=True)]
    if not inner or not all(isinstance(value, dict) for value in inner):
        return None
    if all(name.isdigit() for name in document):
        return inner
    keys = list(inner[0])
    if keys and all(key.isdigit() for key in keys) and all(list(value) == keys for value in inner):
        return [{name: column[key] for name, column in document.items()} for key in keys]
    return None
