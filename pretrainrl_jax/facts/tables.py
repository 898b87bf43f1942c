"""Readers of tables: CSV and TSV, JSON, JSON Lines, Parquet.

A reader is a function (place, settings) that yields the rows of a file. A row that is merely poor, a blank
answer say, is a row all the same and is judged later; a file whose structure is broken is an InputError that
names file and line.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any

from pretrainrl_jax.config import FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.files import Row, first_line, opened, text_lines

PARQUET_BATCH = 4096  # rows decoded at a time


def read_delimited(place: str, settings: FactsConfig, delimiter: str) -> Iterator[Row]:
    """The rows of a CSV or TSV file: its first line names the columns, blank lines are skipped.

    Raises InputError for a row of another width, a stray quotation mark, a column named twice.
    """
    # Strict, or a stray quotation mark would silently swallow the rows up to the next one.
    reader = csv.reader(text_lines(place, settings.encoding), delimiter=delimiter, strict=True)
    between = "tabs" if delimiter == "\t" else "commas"
    origin = f"{place}, line"
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := next((name for name in header if name and header.count(name) > 1), ""):
            raise InputError(f"{place}, line 1: the column {twice!r} stands there twice: rename one of them")
        line = reader.line_num + 1
        for cells in reader:
            if any(map(str.strip, cells)):
                if len(cells) != len(header):
                    raise InputError(
                        f"{origin} {line}: {len(cells)} columns where the header has {len(header)}: separate "
                        f"them with {between}, and double the quotation marks inside a quoted one"
                    )
                yield Row(origin, line, dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{origin} {line}: not a row separated by {between} ({error}): check its quotation marks"
        ) from None


def read_json_lines(place: str, settings: FactsConfig) -> Iterator[Row]:
    """The rows of a file with one JSON object a line; blank lines are skipped.

    Raises InputError for a line that is no JSON object.
    """
    origin = f"{place}, line"
    for number, line in enumerate(text_lines(place, settings.encoding), start=1):
        if line.strip():
            yield _row(origin, number, _parse(line, place, number))


def read_json(place: str, settings: FactsConfig) -> Iterator[Row]:
    """The items of a file that holds one JSON list of objects.

    Raises InputError for text that is not JSON, or JSON that is something else.
    """
    items = _parse("".join(text_lines(place, settings.encoding)), place)
    if not isinstance(items, list):
        raise InputError(
            f"{place} holds {_kind(items)} where a list of objects should be: check facts.format"
        )
    origin = f"{place}, item"
    for number, values in enumerate(items, start=1):
        yield _row(origin, number, values)


def read_parquet(place: str, settings: FactsConfig) -> Iterator[Row]:
    """The rows of a Parquet file.

    Raises InputError for a file that is none, or is cut off, or where pyarrow is not installed.
    """
    origin = f"{place}, row"
    number = 0
    with opened(place) as file:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise InputError(f"reading {place} needs pyarrow: pip install 'pretrainrl_jax[data]'") from None
        try:
            for batch in ParquetFile(file).iter_batches(batch_size=PARQUET_BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(origin, number, decoded_row(values, f"{origin} {number}"))
        except (ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"{place} is not a whole Parquet file ({first_line(error)})") from None


def decoded(value: Any) -> Any:
    """A value with its bytes as text and NumPy's values as Python's own, inside lists and nested values, too.

    Raises UnicodeDecodeError where bytes are not UTF-8.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [decoded(part) for part in value]
    if isinstance(value, dict):
        return {name: decoded(part) for name, part in value.items()}
    return value


def decoded_row(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The same of a row that stands at `where`. Raises InputError."""
    try:
        return decoded(values)
    except UnicodeDecodeError:
        raise InputError(f"{where}: bytes that are not UTF-8 text") from None


def _parse(text: str, place: str, line: int = 0) -> Any:
    """The JSON value of a text: of this line of the file, or of all of it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}, line {line or error.lineno}"
        raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless brackets
        where = f"{place}, line {line}" if line else place
        raise InputError(f"{where}: JSON that cannot be read ({first_line(error)})") from None


def _row(origin: str, number: int, values: Any) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{origin} {number}: {_kind(values)} where an object with named values should be")
    return Row(origin, number, values)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
