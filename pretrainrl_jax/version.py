"""Which version this is, and in which format it writes what later versions read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError

VERSION = "0.2.0"
FORMAT = 2  # of config.json, and of the stamps of models, checkpoints and mined data; 1 had none
STAMP: dict[str, Any] = {"format": FORMAT, "version": VERSION}


def check_format(path: Path, values: Mapping[str, Any]) -> None:
    """A file's stamp is one that this version reads.

    Raises InputError, naming the version that wrote it, if not.
    """
    if (written := values.get("format", 1)) > FORMAT:
        raise InputError(
            f"{path} was written by pretrainrl_jax {values.get('version')} (format {written}), and this is "
            f"{VERSION}, which reads formats up to {FORMAT}: update it"
        )
