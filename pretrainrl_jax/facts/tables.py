"""Readers of tables: CSV and TSV, JSON, JSON Lines, Parquet.

A reader is a function (place, settings) that yields the rows of a file. A row that is merely poor, a blank
answer say, is a row all the same and is judged later; a file whose structure is broken is an InputError that
names file and line.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.facts.files import LINE_END, Damaged, Row, Source, opened, text_lines
from pretrainrl_jax.facts.written import is_json, reach

PARQUET_BATCH = 4096  # rows decoded at a time
DECODER = json.JSONDecoder()
PAIRS = re.compile(r'"\s*:')  # as often as names stand in a JSON text, or more often: in texts, too
# What SPARQL endpoints write in TSV (W3C, SPARQL 1.1 Query Results): `?item`; `<…>`, `"Varn"@en`.
_VARIABLE = re.compile(r"\s*[?$]\w+\s*")
_TERM = re.compile(r'"((?:[^"\\]|\\.)*)"(?:@[\w-]+|\^\^<[^>]*>)?|<([^>]*)>|([^"<].*|)', re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f"}


def read_delimited(place: str, settings: Source, delimiter: str) -> Iterator[Row]:
    """The rows of a CSV or TSV file: its first line names the columns, blank lines are skipped.

    `settings.quoting` says how cells are quoted; "auto" reads quotation marks, and refuses a row of several
    lines that are whole rows by themselves: so a file without quoting looks where marks are text. A TSV file
    of a SPARQL endpoint is recognised by its columns. Raises InputError for a row of another width, a stray
    quotation mark, a column named twice.
    """
    csv.field_size_limit(2**31 - 1)  # of the process: a long cell is a long cell, and judged as others are
    between = "tabs" if delimiter == "\t" else "commas"
    origin = f"{place}, line"
    lines: list[str] = []  # of the present row
    source = _kept(text_lines(place, settings.encoding), lines)
    begin = next(source, "")
    sparql = delimiter == "\t" and all(_VARIABLE.fullmatch(name) for name in begin.split(delimiter))
    bare = sparql or settings.quoting == "none"
    # Strict, or a stray quotation mark would silently swallow the rows up to the next one.
    quoting = csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL
    reader = csv.reader(chain([begin], source), delimiter=delimiter, strict=True, quoting=quoting)
    line = 1
    try:
        header = [name.strip().lstrip("?$") if sparql else name.strip() for name in next(reader, [])]
        _check_once(header, f"{place}, line 1")
        line = reader.line_num + 1
        lines.clear()
        for cells in reader:
            where = f"{origin} {line}"
            if any(map(str.strip, cells)):
                if len(cells) != len(header):
                    how = "and double the quotation marks inside a quoted one"
                    how = "which no cell may hold without quotation marks" if bare else how
                    raise InputError(
                        f"{where}: {len(cells)} columns where the header has {len(header)}: separate "
                        f"them with {between}, {how}"
                    )
                if settings.quoting == "auto" and len(lines) > 1 and _swallowed(cells, lines, delimiter):
                    raise InputError(
                        f"{where}: quotation marks make {len(lines)} lines one row: set facts.quoting=none "
                        "if the file was written without quoting, or facts.quoting=quoted if that is right"
                    )
                cells = [_term(cell, where) for cell in cells] if sparql else cells
                yield Row(origin, line, dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
            lines.clear()
    except csv.Error as error:
        raise InputError(
            f"{origin} {line}: not a row separated by {between} ({error}): check its quotation marks, or set "
            "facts.quoting=none if the file was written without quoting"
        ) from None


def _check_once(names: list[str], where: str) -> None:
    """No column is there twice: raises InputError, since one of them would be lost."""
    if twice := next((name for name, often in Counter(filter(None, names)).items() if often > 1), ""):
        raise InputError(f"{where}: the column {twice!r} stands there twice: rename one of them")


def _kept(lines: Iterator[str], kept: list[str]) -> Iterator[str]:
    for line in lines:
        kept.append(line)
        yield line


def _swallowed(cells: list[str], lines: list[str], delimiter: str) -> bool:
    """Whether a row of several lines looks like several rows."""
    if delimiter == "\t" and any("\t" in cell and LINE_END.search(cell) for cell in cells):
        return True
    return len(cells) > 1 and all(line.count(delimiter) == len(cells) - 1 for line in lines)


def _term(cell: str, where: str) -> str:
    """The text of a term without its quotation marks, language, type or angle brackets. Raises InputError."""
    match = _TERM.fullmatch(cell.strip())
    if not match:
        raise InputError(f"{where}: {cell.strip()[:40]!r} is no SPARQL term: check facts.format")
    text, link, bare = match.groups()
    if text is None:
        return link if link is not None else bare
    return re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text, flags=re.DOTALL)


def read_json_lines(place: str, settings: Source) -> Iterator[Row]:
    """The rows of a file with one JSON object a line; blank lines are skipped.

    Raises InputError for a line that is no JSON object.
    """
    origin = f"{place}, line"
    for number, line in enumerate(text_lines(place, settings.encoding), start=1):
        if line.strip():
            yield _row(origin, number, _parse(line, place, number))


def read_json(place: str, settings: Source) -> Iterator[Row]:
    """The items of a JSON file: a list of objects, wherever `_rows_in` finds it, or JSON Lines.

    Raises InputError for text that is not JSON, or JSON that is something else.
    """
    text = "".join(text_lines(place, settings.encoding))
    first, _, rest = text.lstrip().partition("\n")
    if first.startswith("{") and rest.strip() and is_json(first):  # a line of its own for each object
        yield from read_json_lines(place, settings)
        return
    origin = f"{place}, item"
    for number, values in enumerate(_rows_in(_parse(text, place), place, settings.records), start=1):
        yield _row(origin, number, values)


def _rows_in(document: Any, place: str, records: str) -> list[Any]:
    """The rows of a parsed document; `records` names the list where there are several, a dot reaches inwards.

    An object without any list of objects is one row. Raises InputError for a document that has no rows, or
    several lists of them.
    """
    if records:
        rows: list[Any] = []
        for part in reach(document, records):
            rows += part if isinstance(part, list) else [part]
        if not rows:
            there = f"it holds {kind(document)}"
            if isinstance(document, dict):
                there = f"there are {', '.join(dict(_lists(document)) or document)}"
            raise InputError(f"{place}: no {records} in it (facts.records); {there}")
        return rows
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        meant = "where a list of objects should be: check facts.format"
        raise InputError(f"{place} holds {kind(document)} {meant}")
    if (table := _pandas(document)) is not None:
        return table
    lists = dict(_lists(document))
    if len(lists) > 1:
        several = f"several lists of objects: {', '.join(lists)}"
        raise InputError(f"{place} holds {several}: name one in facts.records")
    return next(iter(lists.values())) if lists else [document]


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _lists(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Every list of objects that lies in objects alone, by its path."""
    for name, value in document.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield before + name, value
        elif isinstance(value, dict):
            yield from _lists(value, f"{before}{name}.")


def _pandas(document: dict[str, Any]) -> list[Any] | None:
    """The rows where columns are lists, or where DataFrame.to_json wrote a table, not a list of records."""
    if "schema" in document and isinstance(document.get("data"), list):
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


@contextmanager
def parquet_file(place: str) -> Generator[Any]:
    """An opened Parquet file.

    Raises InputError where pyarrow is missing; Damaged, also while it is read, if it is none or is cut off.
    """
    with opened(place) as file:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise InputError(f"reading {place} needs pyarrow: pip install 'pretrainrl_jax[data]'") from None
        try:
            yield ParquetFile(file)
        except (ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise Damaged(f"{place} is not a whole Parquet file ({first_line(error)})") from None


def read_parquet(place: str, settings: Source) -> Iterator[Row]:
    """The rows of a Parquet file.

    Raises InputError as `parquet_file`, for a column named twice, or for bytes that are no text.
    """
    origin = f"{place}, row"
    with parquet_file(place) as file:
        _check_once(file.schema_arrow.names, place)
        batches = file.iter_batches(batch_size=PARQUET_BATCH)
        types = str(file.schema_arrow)
        ready = "binary" not in types and "map<" not in types  # Arrow gives all others as they are wanted
        for number, values in enumerate((row for batch in batches for row in arrow_rows(batch)), start=1):
            try:
                yield Row(origin, number, values if ready else decoded(values))
            except UnicodeDecodeError:
                raise InputError(f"{origin} {number}: bytes that are not UTF-8 text") from None


class Single(float):
    """A number that was stored in 32 bits or fewer: as text the shortest of 32 bits that means it, 0.1."""

    def __str__(self) -> str:
        import numpy as np

        return str(np.float32(self))


def arrow_rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a pyarrow RecordBatch or Table, with numbers of 32 bits as such."""
    converters = {field.name: convert for field in batch.schema if (convert := _single(field.type))}
    rows = batch.to_pylist()
    for row in rows if converters else ():
        for name, convert in converters.items():
            row[name] = convert(row[name])
    return rows


def _single(kind: Any) -> Callable[[Any], Any] | None:
    """What marks the numbers of 32 bits or fewer in a value of an Arrow type; None where it has none."""
    from pyarrow import types

    if types.is_float32(kind) or types.is_float16(kind):
        return lambda value: None if value is None else Single(value)
    if types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        inner = {field.name: convert for field in fields if (convert := _single(field.type))}
        return (lambda value: value and value | {n: c(value[n]) for n, c in inner.items()}) if inner else None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        of_part = _single(kind.value_type)
        return (lambda value: value and list(map(of_part, value))) if of_part else None
    return None


def decoded(value: Any) -> Any:
    """A value with its bytes as text and NumPy's values as Python's own, inside lists and nested values, too.

    Raises UnicodeDecodeError where bytes are not UTF-8.
    """
    if hasattr(value, "tolist"):
        small = getattr(value.dtype, "kind", "") == "f" and value.dtype.itemsize <= 4
        value = _as_single(value.tolist()) if small else value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [decoded(part) for part in value]
    if isinstance(value, dict):
        return {name: decoded(part) for name, part in value.items()}
    return value


def _as_single(value: Any) -> Any:
    return [_as_single(part) for part in value] if isinstance(value, list) else Single(value)


def _parse(text: str, place: str, line: int = 0) -> Any:
    """The JSON value of a text: of this line of the file, or of all of it."""
    try:
        if text[:1] == "{":  # `json.loads` takes twice the time, for the white space around
            value, end = DECODER.raw_decode(text)
            if not text[end:].strip(" \t\r\n") and len(PAIRS.findall(text)) == len(value):
                return value
        return json.loads(text, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        where = f"{place}, line {line or error.lineno}"
        raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        where = f"{place}, line {line}" if line else place
        raise InputError(f"{where}: JSON that cannot be read ({first_line(error)})") from None


class Ambiguous(ValueError):
    """A name stands twice in an object: one of the values would be lost."""


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its names and values. Raises Ambiguous."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, often in Counter(name for name, _ in pairs).items() if often > 1)
        raise Ambiguous(f"an object has {twice!r} twice")
    return made


def _row(origin: str, number: int, values: Any) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{origin} {number}: {kind(values)} where an object with named values should be")
    return Row(origin, number, values)
