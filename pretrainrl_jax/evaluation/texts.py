"""Texts of one's own to measure a loss on."""

import re
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import read_text


def paragraphs(path: str, name: str) -> list[str]:
    """The texts of a file, which blank lines separate; `name` is the setting that names it.

    Raises InputError if it cannot be read, or holds none.
    """
    parts = re.split(r"\n\s*\n", read_text(Path(path), name))
    texts = [part.strip() for part in parts if part.strip()]
    if not texts:
        raise InputError(f"{path} holds no text: check {name}")
    return texts
