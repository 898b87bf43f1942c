"""The answers that a model may be asked to choose among: a category's own, or those of a file."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.cleaning import clean
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.storage import read_text

CATEGORY = "category"  # what `mine.among` and `evaluate.among` call the category's own answers


def category_answers(facts: Iterable[Fact]) -> dict[str, list[str]]:
    """The canonical answers of each category, normalised ones once, spelt and ordered as they come first."""
    by_category: dict[str, dict[str, str]] = {}
    for fact in facts:
        if key := normalise(fact.answer):
            by_category.setdefault(fact.category, {}).setdefault(key, fact.answer)
    return {category: list(answers.values()) for category, answers in by_category.items()}


def read_answers(path: str, setting: str) -> list[str]:
    """The answers of a file, one a line, every spelling once; `setting` named it.

    Raises InputError if it cannot be read, holds none, or holds JSON.
    """
    text = read_text(Path(path), f"{setting}: give {CATEGORY}, or a file of answers, one a line")
    answers = dict.fromkeys(clean(line, Counter()) for line in text.split("\n"))
    answers = [answer for answer in answers if normalise(answer)]
    if not answers:
        raise InputError(f"{setting}: {path} holds no answer: write one a line")
    if all(answer[0] in "{[" for answer in answers):
        raise InputError(f"{setting}: {path} holds JSON: write plain answers, one a line")
    return answers


def choices(among: str, facts: Iterable[Fact], setting: str) -> dict[str, list[str]]:
    """The answers of every kind of question (`kind_of`); raises InputError as `read_answers`."""
    return category_answers(facts) if among == CATEGORY else {"": read_answers(among, setting)}


def kind_of(among: str, fact: Fact) -> str:
    """The name of a fact's set of answers."""
    return fact.category if among == CATEGORY else ""
