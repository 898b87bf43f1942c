"""Readers of whole data sets: TensorFlow Datasets (without TensorFlow) and Hugging Face datasets."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.facts.files import Part, Row, Source, is_remote
from pretrainrl_jax.facts.tables import arrow_rows, decoded, decoded_row

HF_BATCH = 1000  # rows decoded at a time


class Examples:
    """The examples of a data set by their index, class labels named."""

    def __init__(
        self, origin: str, count: int, values: Callable[[int], dict[str, Any]], features: Any
    ) -> None:
        self.origin, self._count, self._values = origin, count, values
        self._labels = _labels(features)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        """Raises InputError for one that cannot be read."""
        try:
            values = decoded(self._values(index))
        except Exception as error:  # a damaged file, or bytes that are no text
            raise InputError(f"{self.origin} {index + 1}: {first_line(error)}") from None
        return Row(self.origin, index + 1, _named(values, self._labels))


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
        return Examples(origin, len(source), source.__getitem__, builder.info.features)
    except Exception as error:  # downloads, formats and names fail in many ways
        raise InputError(f"cannot open tfds:{place}, split {settings.split!r}: {first_line(error)}") from None


def read_tfds(place: str, settings: Source) -> Iterator[Row]:
    """The examples of `facts.split` of a TensorFlow data set. Raises InputError as `open_tfds`."""
    source = open_tfds(place, settings)
    for index in range(len(source)):
        yield source[index]


def _open_hf(place: str, settings: Part) -> Any:
    _check_folder("hf", place)
    try:
        import datasets
    except ImportError:
        raise InputError(f"reading hf:{place} needs datasets: pip install 'pretrainrl_jax[data]'") from None
    datasets.disable_progress_bars()
    try:
        source: Any = _saved(place, settings.split)
        if source is None:
            source = datasets.load_dataset(place, settings.subset or None, split=settings.split)
        return source.with_format("arrow")
    except Exception as error:  # the hub, the cache and the files fail in many ways
        raise InputError(f"cannot open hf:{place}, split {settings.split!r}: {first_line(error)}") from None


def open_hf(place: str, settings: Part, column: str = "") -> Examples:
    """The rows of `settings.split` of a Hugging Face data set: a name on the hub, a local folder of files, or
    what `save_to_disk` wrote; with all columns, or where it has that one with it alone.

    Raises InputError as `read_hf`.
    """
    source = _open_hf(place, settings)
    source = source.select_columns([column]) if column in source.column_names else source

    def values(index: int) -> dict[str, Any]:
        return arrow_rows(source[index : index + 1])[0]

    return Examples(f"hf:{place} {settings.split}, row", len(source), values, source.features)


def read_hf(place: str, settings: Source) -> Iterator[Row]:
    """The rows of `facts.split` of a Hugging Face data set, as `open_hf` finds it.

    `facts.subset` names its configuration where it has several. Class labels are named. Raises InputError if
    datasets or the data set is missing, or has no such split or subset.
    """
    source = _open_hf(place, settings)
    labels = _labels(source.features)
    origin = f"hf:{place} {settings.split}, row"
    number = 0
    for batch in source.iter(batch_size=HF_BATCH):
        for values in arrow_rows(batch):
            number += 1
            yield Row(origin, number, _named(decoded_row(values, f"{origin} {number}"), labels))


def _saved(place: str, split: str) -> Any:
    """What `save_to_disk` wrote into a folder; None where it did not."""
    import datasets

    if os.path.isfile(os.path.join(place, "dataset_dict.json")):
        return datasets.load_from_disk(place)[split]
    return datasets.load_from_disk(place) if os.path.isfile(os.path.join(place, "state.json")) else None


def _is_folder_name(place: str) -> bool:
    return is_remote(place) or os.path.isabs(place) or place.startswith(".") or os.path.isdir(place)


def _check_folder(kind: str, place: str) -> None:
    if not place:
        raise InputError(f"facts.path={kind}: names no data set: write {kind}:NAME")
    if _is_folder_name(place) and not is_remote(place) and not os.path.isdir(place):
        raise InputError(f"facts.path={kind}:{place}: no such folder")


def _labels(features: Any) -> dict[str, Any]:
    """What turns a class's number into its name, for each column that holds classes."""
    return {name: kind.int2str for name, kind in features.items() if type(kind).__name__ == "ClassLabel"}


def _named(values: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    for name, to_text in labels.items():
        known = isinstance(values.get(name), int) and values[name] >= 0  # -1 marks a missing label
        values[name] = to_text(values[name]) if known else None
    return values
