"""Texts of one's own to measure a loss on."""

import re
from pathlib import Path

from pretrainrl_jax.errors import InputError


def paragraphs(path: str, name: str) -> list[str]:
    """The texts of a file, which blank lines separate; `name` is the setting that names it.

    Raises InputError if it cannot be read, or holds none.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"cannot read {path}: {why}; check {name}") from None
    texts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if not texts:
        raise InputError(f"{path} holds no text: check {name}")
    return texts
