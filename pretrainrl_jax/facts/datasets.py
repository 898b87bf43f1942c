"""Readers of whole data sets: TensorFlow Datasets (without TensorFlow) and Hugging Face datasets."""

import os
from collections.abc import Iterator
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.files import Row, Source, first_line, is_remote
from pretrainrl_jax.facts.tables import arrow_rows, decoded, decoded_row

HF_BATCH = 1000  # rows decoded at a time


def read_tfds(place: str, settings: Source) -> Iterator[Row]:
    """The examples of `facts.split` of a TensorFlow data set, by name or by the folder it was prepared in.

    They are fetched one by one from ArrayRecord files, which needs no TensorFlow. Class labels are named.
    Raises InputError if tensorflow-datasets or the data set is missing, or is not stored as ArrayRecord.
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
        labels = _labels(builder.info.features)
    except Exception as error:  # downloads, formats and names fail in many ways
        raise InputError(f"cannot open tfds:{place}, split {settings.split!r}: {first_line(error)}") from None
    origin = f"tfds:{place} {settings.split}, example"
    for number in range(1, len(source) + 1):
        try:
            values = decoded(source[number - 1])
        except Exception as error:  # a damaged file, or bytes that are no text
            raise InputError(f"{origin} {number}: {first_line(error)}") from None
        yield Row(origin, number, _named(values, labels))


def read_hf(place: str, settings: Source) -> Iterator[Row]:
    """The rows of `facts.split` of a Hugging Face data set: a name on the hub, a local folder of files, or
    what `save_to_disk` wrote.

    `facts.subset` names its configuration where it has several. Class labels are named. Raises InputError if
    datasets or the data set is missing, or has no such split or subset.
    """
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
        labels = _labels(source.features)
        batches = source.with_format("arrow").iter(batch_size=HF_BATCH)
    except Exception as error:  # the hub, the cache and the files fail in many ways
        raise InputError(f"cannot open hf:{place}, split {settings.split!r}: {first_line(error)}") from None
    origin = f"hf:{place} {settings.split}, row"
    number = 0
    for batch in batches:
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
