"""Sources of documents: their parts, the records of each from any position on, and the text of a record.

A source is one entry of documents.path. Its parts are files, or a data set. Records of a part are either had
by their index, or one after another, each with the position after it. A record is parsed later, and not
where it is read: what is wrong with one is found then, and counted.
"""

import codecs
import glob
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from pretrainrl_jax.config import DocumentsConfig
from pretrainrl_jax.documents import rules
from pretrainrl_jax.documents.files import lines, opened_at
from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.facts.cleaning import Unusable
from pretrainrl_jax.facts.datasets import open_hf, open_tfds
from pretrainrl_jax.facts.files import Damaged, ask, check_encoding, is_folder, is_remote, named_for
from pretrainrl_jax.facts.splits import hashed
from pretrainrl_jax.facts.tables import Ambiguous, arrow_rows, decoded, each_once, kind, parquet_file
from pretrainrl_jax.facts.written import cells

KINDS = re.compile(
    r"\.(?:(?P<text>txt|jsonl)(?:\.gz|\.zst)?|(?P<table>parquet)|(?P<records>array_record)(?:-\d+-of-\d+)?)$",
    re.IGNORECASE,
)
LONGEST_LINE = 64 << 20  # bytes of a line of JSON
PARQUET_BATCH = 64  # rows decoded at a time
CHARACTER = 4  # bytes it has at most

Position = dict[str, int]
Form = Literal["text", "json", "either", "row"]


class Raw(NamedTuple):
    """A record as it stands in its part."""

    where: str  # "news.jsonl line 12"
    value: Any  # bytes, a text, or a row's values
    form: Form = "row"  # of bytes
    cut: bool = False  # more follows
    rule: str = ""  # by which it is no document


class Parsed(NamedTuple):
    """What became of a record."""

    text: str  # blank where it is no document
    rule: str = ""  # why not, or rules.SHORTENED
    detail: str = ""


@dataclass(frozen=True)
class Indexed:
    """Records that are had by their index: texts at hand, a data set, an ArrayRecord file."""

    identity: list[Any]
    unit: str  # what is counted: "news.array_record record"
    count: int
    value: Callable[[int], Any]  # of the record with that index, from 0; may raise any error
    form: Form = "row"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Raw:
        where = f"{self.unit} {index + 1}"
        try:
            return Raw(where, self.value(index), self.form)
        except Exception as error:
            why = str(error) if isinstance(error, InputError) else first_line(error)
            return Raw(where, why, rule=rules.UNREADABLE)


def array_records(path: str, size: int) -> Indexed:
    """The records of an ArrayRecord file: texts, or JSON objects. Raises InputError if it is none."""
    from array_record.python.array_record_module import ArrayRecordReader

    if is_remote(path):
        raise InputError(f"{path}: ArrayRecord files are read from a disk only: copy it there")
    try:
        reader = ArrayRecordReader(path, options="readahead_buffer_size:0")
        count = reader.num_records()
    except Exception as error:  # what it raises depends on where a file is damaged
        raise InputError(f"{path} is not a whole ArrayRecord file ({first_line(error)})") from None
    if not count:  # so reads what is something else
        raise InputError(f"{path} is not a whole ArrayRecord file (it has no records)")
    name = os.path.basename(path)
    return Indexed([name, size], f"{name} record", count, lambda index: reader.read([index])[0], "either")


@dataclass(frozen=True)
class Sequential(ABC):
    """A file whose records are read one after another, from any position on: {} is the beginning."""

    path: str
    size: int
    settings: DocumentsConfig
    unit: ClassVar[str]  # what is counted in it
    counted: ClassVar[str]  # and where in a position

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def identity(self) -> list[Any]:
        return [self.name, self.size]

    def read(self, position: Position) -> Iterator[tuple[Raw, Position]]:
        """The records from a position on, each with the position after it.

        Raises InputError if the file cannot be read; where it is damaged, that is the last record.
        """
        at = position
        records = self._records(at) if "broken" not in at else ()
        with named_for("documents", self.settings):
            try:
                for raw, at in records:
                    yield raw, at
            except Damaged as error:
                broken = self._where(at.get(self.counted, 0) + 1)
                yield Raw(broken, str(error), rule=rules.BROKEN_OFF), {**at, "broken": 1}

    @abstractmethod
    def _records(self, at: Position) -> Iterator[tuple[Raw, Position]]: ...

    def _where(self, number: int) -> str:
        return f"{self.name} {self.unit} {number}"


class TextFile(Sequential):
    """A file of JSON Lines, or of plain text; its positions count bytes and lines."""

    unit = counted = "line"

    def _records(self, at: Position) -> Iterator[tuple[Raw, Position]]:
        at = {"offset": 0, "line": 0} | at
        is_json = ".jsonl" in self.name.lower()
        keep = LONGEST_LINE if is_json else CHARACTER * self.settings.longest + 1
        separator = "line" if is_json else self.settings.separator
        collected, length, began = bytearray(), 0, 0

        def record() -> Raw:
            where, form = self._where(began), "json" if is_json else "text"
            return Raw(where, bytes(collected), form, length > len(collected))

        with opened_at(self.path, at["offset"]) as file:
            for line, size in lines(file, keep):
                at = {"offset": at["offset"] + size, "line": at["line"] + 1}
                blank = size == len(line) and not line.strip()
                if not blank or (separator == "file" and length):
                    began = began if length else at["line"]
                    length += size
                    collected += line[: keep - len(collected)]
                if length and separator != "file" and (blank or separator == "line"):
                    yield record(), at
                    collected, length = bytearray(), 0
        if length:
            yield record(), at


class Parquet(Sequential):
    """A Parquet file, read by row groups; its positions count rows."""

    unit, counted = "row", "rows"

    def _records(self, at: Position) -> Iterator[tuple[Raw, Position]]:
        done, number = at.get("rows", 0), 0
        with parquet_file(self.path) as file:
            names = file.schema_arrow.names
            column = self.settings.column
            column = next((name for name in (column, _root(column)) if name in names), "")
            for group in range(file.num_row_groups):
                if number + file.metadata.row_group(group).num_rows <= done:
                    number += file.metadata.row_group(group).num_rows
                    continue
                for batch in file.iter_batches(PARQUET_BATCH, [group], [column] if column else []):
                    rest = batch.slice(min(batch.num_rows, max(0, done - number)))
                    number += batch.num_rows - rest.num_rows
                    for values in arrow_rows(rest) if column else [dict.fromkeys(names)] * rest.num_rows:
                        number += 1
                        yield Raw(self._where(number), values), {"rows": number}


Part = Indexed | Sequential


class Source(NamedTuple):
    """One entry of documents.path."""

    name: str
    parts: Sequence[Part]


def _root(column: str) -> str:
    return column.partition(".")[0]


def open_sources(settings: DocumentsConfig, made: Sequence[str] = ()) -> list[Source]:
    """The sources of documents.path, or where it is empty `made`.

    Raises InputError for one that is not there, is empty, or is of no known kind.
    """
    with named_for("documents", settings):
        check_encoding(settings.encoding)
        if "\n{".encode(settings.encoding).removeprefix(codecs.BOM_UTF8) != b"\n{":
            what = f"documents.encoding is {settings.encoding!r}, in which a line's end is no single byte"
            raise InputError(f"{what}: save the files as UTF-8")
        if settings.path:
            return [Source(place, _parts(place, settings)) for place in settings.path]
    if not made:
        instead = "there are no texts about facts: give a file or data set"
        raise InputError(f"documents.path is empty, and {instead}")
    identity = ["made text", f"{hashed(chr(0).join(made)):016x}"]
    return [Source("made texts", [Indexed(identity, "made text", len(made), made.__getitem__)])]


def _parts(place: str, settings: DocumentsConfig) -> list[Part]:
    scheme, _, rest = place.partition(":")
    if scheme in ("hf", "tfds"):
        hf = scheme == "hf"
        examples = open_hf(rest, settings, _root(settings.column)) if hf else open_tfds(rest, settings)
        size = len(examples)
        return [Indexed([place, size], examples.origin, size, lambda index: examples[index].values)]
    parts = [_part(path, settings) for path in _files(place)]
    if not any(part.identity[1] for part in parts):
        raise InputError(f"{place} is empty: check documents.path")
    return parts


def _part(path: str, settings: DocumentsConfig) -> Part:
    try:
        size = int(ask(path, "size") or 0) if is_remote(path) else os.path.getsize(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {first_line(error)}; check documents.path") from None
    known = KINDS.search(path)
    if known and known["table"]:
        return Parquet(path, size, settings)
    return array_records(path, size) if known and known["records"] else TextFile(path, size, settings)


def _files(place: str) -> list[str]:
    """The files of one entry, sorted."""
    remote = is_remote(place)
    paths, missing = [place], "is no"
    if is_folder(place):
        below = [os.path.join(at, name) for at, _, names in os.walk(place) for name in names]
        every = ask(place, "find") if remote else below
        paths, missing = [path for path in every if os.path.basename(path)[0] not in "._"], "holds no"
    elif glob.has_magic(place) and (remote or not os.path.exists(place)):
        paths = ask(place, "glob") if remote else filter(os.path.isfile, glob.glob(place, recursive=True))
        missing = "matches no"
    elif not remote and not os.path.exists(place):
        raise InputError(f"cannot read {place}: No such file or directory; check documents.path")
    paths = sorted(path for path in paths if KINDS.search(path))
    if not paths:
        known = ".txt .jsonl (.gz .zst) .parquet .array_record"
        raise InputError(f"documents.path={place} {missing} file that ends in any of {known}")
    head = place.partition("://")[0]
    return [path if not remote or is_remote(path) else f"{head}://{path.lstrip('/')}" for path in paths]


def parse(raw: Raw, settings: DocumentsConfig) -> Parsed:
    """The text of a record, or why it has none."""
    if raw.rule:
        return Parsed("", raw.rule, str(raw.value or ""))
    if raw.form == "json" and raw.cut:
        return Parsed("", rules.LONG_LINE)
    value: Any = raw.value
    try:
        if raw.form != "row":
            encoding = "utf-8" if raw.form == "either" else settings.encoding
            decoder = codecs.getincrementaldecoder(encoding)()
            value = decoder.decode(value, final=not raw.cut).removeprefix("\ufeff")
        if raw.form == "json" or (raw.form == "either" and value.lstrip().startswith("{")):
            value = _parsed_json(value, raw.form == "json")
        if isinstance(value, Mapping):
            value = _cell(value, settings.column)
        if raw.form == "text":
            value = value.replace("\r\n", "\n").strip("\r\n")
        value.encode()  # lone surrogates are not to be had in UTF-8
    except UnicodeError:
        return Parsed("", rules.BAD_BYTES)
    except Unusable as reason:
        return Parsed("", str(reason), reason.where)
    text = value[: settings.longest]
    if not text.strip():
        return Parsed("", rules.BLANK)
    if "\0" in text:
        return Parsed("", rules.BINARY)
    return Parsed(text, rules.SHORTENED if raw.cut or len(value) > len(text) else "")


def _parsed_json(text: str, must: bool) -> Any:
    """The object of a line of JSON; a record that need not be one is plain text where it is none."""
    try:
        values = json.loads(text, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        if must or isinstance(error, Ambiguous):
            raise Unusable(rules.NOT_JSON, first_line(error)) from None
        return text
    if not isinstance(values, dict):
        raise Unusable(rules.NOT_JSON, f"it is {kind(values)}")
    return values


def _cell(values: Mapping[str, Any], column: str) -> str:
    there = cells(values, column)
    if not there:
        names = ", ".join(map(str, values)) or "none"
        raise Unusable(rules.NO_COLUMN, f"there is no {column!r}: the columns are {names[:200]}")
    value = decoded(there[0]) if len(there) == 1 else there
    if value is None:
        raise Unusable(rules.BLANK, "null")
    if not isinstance(value, str):
        what = f"{len(there)} values" if len(there) > 1 else kind(value)
        raise Unusable(rules.NO_TEXT, f"{column!r} holds {what}")
    return value
