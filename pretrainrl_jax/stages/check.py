"""What is checked of a command's inputs before JAX is imported."""

import json
from collections.abc import Sequence
from pathlib import Path

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact


def check_facts(config: Config, facts: Sequence[Fact]) -> None:
    """The facts have what the settings ask of them.

    Raises:
        InputError: if pools are to be collected and some facts have no category.
    """
    if "pool" in config.mine.sources and any(not fact.category for fact in facts):
        raise InputError(
            "mine.sources has pool, and some facts have no category: name their column in "
            "facts.columns.category, or mine the beams alone (mine.sources=beam)"
        )


def check_question(question: str, path: str | Path) -> None:
    """There is something to ask, and someone to ask it.

    Raises:
        InputError: for an empty question, or where no folder is.
    """
    if not question.strip():
        raise InputError("the question is empty")
    check_model_at(path, "--model.path")


def check_model_at(path: str | Path, option: str) -> None:
    """There is a folder that may hold a model.

    Raises:
        InputError: if not.
    """
    if "://" not in str(path) and not Path(path).is_dir():
        raise InputError(
            f"no model at {path}: give --workdir of a run, or {option} of a checkpoint or a Hugging Face "
            "folder"
        )


def check_model(config: Config) -> None:
    """The files of tokenizer and model are there and fit each other.

    Raises:
        InputError: if not.
    """
    for name, path in (("tokenizer.path", config.tokenizer.path), ("model.path", config.model.path)):
        if path and "://" not in path and not Path(path).is_dir():
            raise InputError(f"--{name}={path}: no such folder")
    if config.tokenizer.path and not config.model.path and config.model.vocabulary:
        size = tokenizer_size(Path(config.tokenizer.path))
        if config.model.vocabulary < size:
            raise InputError(
                f"model.vocabulary is {config.model.vocabulary} and the tokenizer in {config.tokenizer.path} "
                f"has {size} tokens: raise it, or set it to 0"
            )


def tokenizer_size(folder: Path) -> int:
    """One more than the largest token id that a tokenizer's files state; 0 where they state none.

    Raises:
        InputError: if one of them is not what a tokenizer's file is.
    """
    ids = [-1]
    path = folder
    try:
        if (path := folder / "tokenizer.json").is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            vocabulary = values["model"].get("vocab", {})
            ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
            ids += [token["id"] for token in values.get("added_tokens", [])]
        if (path := folder / "vocab.json").is_file():
            ids += json.loads(path.read_text(encoding="utf-8")).values()
        if (path := folder / "tokenizer_config.json").is_file():
            ids += map(int, json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {}))
        return max(ids) + 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no tokenizer file: {type(error).__name__}: {error}") from None
