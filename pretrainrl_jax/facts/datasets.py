"""Readers of whole data sets: Hugging Face's, TensorFlow's (without TensorFlow), EntityQuestions."""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.facts.files import Part, Row, Source, is_folder, is_remote, names_in
from pretrainrl_jax.facts.tables import arrow_rows, decoded, read_json
from pretrainrl_jax.facts.wordings import subject_of

HF_BATCH = 1000  # rows decoded at a time
RELATION = re.compile(r"(P(\d+))(?:\.(\w+))?\.json")  # files of EntityQuestions: P17.train.json, or P17.json
Values = Iterator[dict[str, Any]]


class Examples:
    """The examples of a data set one after another, or by their index, class labels named.

    `values` gives those from an index up to another one. Raises InputError for one that cannot be read.
    """

    def __init__(self, origin: str, count: int, values: Callable[[int, int], Values], features: Any) -> None:
        self.origin, self._count, self._values = origin, count, values
        # What turns a class's number into its name, for each column that holds classes.
        classes = ((name, kind) for name, kind in features.items() if type(kind).__name__ == "ClassLabel")
        self._labels = {name: kind.int2str for name, kind in classes}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        return self._read(0, self._count)

    def __getitem__(self, index: int) -> Row:
        return next(self._read(index, index + 1))

    def _read(self, begin: int, end: int) -> Iterator[Row]:
        there = self._values(begin, end)
        for number in range(begin + 1, end + 1):
            try:
                values = decoded(next(there))
            except Exception as error:  # a damaged file, or bytes that are no text
                raise InputError(f"{self.origin} {number}: {first_line(error)}") from None
            for name, to_text in self._labels.items():
                known = isinstance(values.get(name), int) and values[name] >= 0  # -1 marks a missing label
                values[name] = to_text(values[name]) if known else None
            yield Row(self.origin, number, values)


def open_tfds(place: str, settings: Part) -> Examples:
    """The examples of `settings.split` of a TensorFlow data set, by name or by the folder it was prepared in.

    They are fetched one by one from ArrayRecord files, which needs no TensorFlow. Raises InputError if
    tensorflow-datasets or the data set is missing, or is not stored as ArrayRecord.
    """
    _check_folder("tfds", place)
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        need = f"tfds:{place} needs tensorflow-datasets"
        raise InputError(f"reading {need}: pip install 'pretrainrl_jax[data]'") from None
    try:
        if _is_folder_name(place):
            builder: Any = tfds.builder_from_directory(place)
        else:
            builder = tfds.builder(place, file_format="array_record")
            builder.download_and_prepare()
        source = builder.as_data_source(split=settings.split)
        origin = f"tfds:{place} {settings.split}, example"

        def values(begin: int, end: int) -> Values:
            return map(source.__getitem__, range(begin, end))

        return Examples(origin, len(source), values, builder.info.features)
    except Exception as error:  # downloads, formats and names fail in many ways
        raise InputError(f"cannot open tfds:{place}, split {settings.split!r}: {first_line(error)}") from None


def open_hf(place: str, settings: Part, column: str = "") -> Examples:
    """The rows of `settings.split` of a Hugging Face data set: a name on the hub, a local folder of files, or
    what `save_to_disk` wrote; with all columns, or where it has that one with it alone.

    `settings.subset` names its configuration where it has several. Raises InputError if datasets or the data
    set is missing, or has no such split or subset.
    """
    _check_folder("hf", place)
    try:
        import datasets
    except ImportError:
        raise InputError(f"reading hf:{place} needs datasets: pip install 'pretrainrl_jax[data]'") from None
    datasets.disable_progress_bars()
    try:
        source: Any
        if os.path.isfile(os.path.join(place, "dataset_dict.json")):
            source = datasets.load_from_disk(place)[settings.split]
        elif os.path.isfile(os.path.join(place, "state.json")):
            source = datasets.load_from_disk(place)
        else:
            source = datasets.load_dataset(place, settings.subset or None, split=settings.split)
        source = source.with_format("arrow")
    except Exception as error:  # the hub, the cache and the files fail in many ways
        raise InputError(f"cannot open hf:{place}, split {settings.split!r}: {first_line(error)}") from None
    source = source.select_columns([column]) if column in source.column_names else source

    def values(begin: int, end: int) -> Values:
        for at in range(begin, end, HF_BATCH):
            yield from arrow_rows(source[at : min(end, at + HF_BATCH)])

    return Examples(f"hf:{place} {settings.split}, row", len(source), values, source.features)


def _is_folder_name(place: str) -> bool:
    return is_remote(place) or os.path.isabs(place) or place.startswith(".") or os.path.isdir(place)


def _check_folder(kind: str, place: str) -> None:
    if not place:
        raise InputError(f"facts.path={kind}: names no data set: write {kind}:NAME")
    if _is_folder_name(place) and not is_remote(place) and not os.path.isdir(place):
        raise InputError(f"facts.path={kind}:{place}: no such folder")


def read_entityquestions(place: str, settings: Source) -> Iterator[Row]:
    """Every question of a folder of EntityQuestions (Sciavolino et al., 2021), by its relations' numbers.

    It has a JSON file for each relation. The relation is the category, "P17:57" the id of its item 57, and
    the subject is what the question asks about, where it is worded as its relation's questions are. Raises
    InputError for a folder without such files, or a file that is not a JSON list of objects.
    """
    for relation, file in _files(place.rstrip("/"), settings.split):
        for row in read_json(file, settings):
            question = row.values.get("question")
            subject = subject_of(relation, " ".join(question.split())) if isinstance(question, str) else ""
            own = {"category": relation, "subject": subject, "id": f"{relation}:{row.number}"}
            yield Row(row.origin, row.number, {**own, **row.values})


def _files(place: str, split: str) -> list[tuple[str, str]]:
    """Relation and path of each file: those of the split, or of the only split that is there."""
    if not is_folder(place):
        raise InputError(f"facts.path={place}: no such folder; an EntityQuestions one holds P17.train.json …")
    files = _in(place)
    if not files and split in names_in(place) and is_folder(inner := f"{place}/{split}"):
        place, files = inner, _in(inner)
    splits = sorted({match[3] or "" for match in files})
    if not files:
        names = f"P17.{split}.json or {split}/P17.json: check facts.path and facts.split"
        raise InputError(f"facts.path={place}: no EntityQuestions files here, as {names}")
    if split not in splits and len(splits) > 1:
        there = ", ".join(filter(None, splits))
        raise InputError(f"facts.split is {split!r}, and the files in {place} are of {there}")
    chosen = [match for match in files if match[3] == split or len(splits) == 1]
    return [(match[1], f"{place}/{match[0]}") for match in sorted(chosen, key=lambda match: int(match[2]))]


def _in(folder: str) -> list[re.Match[str]]:
    return [match for name in names_in(folder) if (match := RELATION.fullmatch(name))]
