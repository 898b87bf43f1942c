"""Which column of a source means what: the settings of facts.columns first, then the usual names."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pretrainrl_jax.config import ColumnsConfig, FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.files import Row

# The usual names, most telling first; PopQA's are among them. Capitals and spaces do not matter.
USUAL: dict[str, tuple[str, ...]] = {
    "question": ("question", "query"),
    "answer": ("answer.value", "answer", "object", "obj", "o"),
    "answers": ("answer.aliases", "answers.text", "answers", "possible_answers", "aliases"),
    "category": ("category", "relation", "prop", "property", "predicate", "p"),
    "subject": ("subject", "subj", "s"),
    "subject_key": ("subject_key", "subject_id", "subj_id"),
    "popularity": ("popularity", "s_pop", "subject_popularity", "pop"),
    "answer_popularity": ("answer_popularity", "o_pop", "object_popularity"),
    "id": ("id", "question_id"),
}


def choose_columns(head: Sequence[Row], settings: FactsConfig, at: str) -> dict[str, str]:
    """The column of each setting of facts.columns, "" where there is none, judged by a source's first rows.

    A nested column is there if one of them has it; a template for the question makes its column optional.
    Raises InputError, naming the place, if a column that the settings name is not there, or none for question
    or answer.
    """
    there = list(dict.fromkeys(name for row in head for name in row.values))
    chosen = {}
    for field in dataclasses.fields(ColumnsConfig):
        named = getattr(settings.columns, field.name)
        if named and not any(_has(row.values, named) for row in head):
            missing = f"no column {_shown([named])} (facts.columns.{field.name})"
            raise InputError(f"{at}: {missing}; there are {_shown(there)}")
        chosen[field.name] = named or _usual(USUAL[field.name], there, head)
    if not chosen["question"] and not (settings.questions and chosen["subject"]):
        instead = "set facts.columns.question, or give facts.questions a template"
        if settings.questions:
            instead = "nor for the subject that facts.questions asks about: set facts.columns.subject"
        raise InputError(f"{at}: no column for the question, {instead}; there are {_shown(there)}")
    if not chosen["answer"] and not chosen["answers"]:
        instead = "as answer, answers or possible_answers: set facts.columns.answer or facts.columns.answers"
        raise InputError(f"{at}: no column for the answer, {instead}; there are {_shown(there)}")
    return chosen


def cell(values: Mapping[str, Any], name: str) -> Any:
    """What a row holds in a column, None where nothing; a dot reaches into nested values."""
    if not name or name in values:
        return values.get(name)
    value: Any = values
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _has(values: Mapping[str, Any], name: str) -> bool:
    if name in values:
        return True
    outer, dot, rest = name.partition(".")
    inner = values.get(outer)
    return bool(dot) and isinstance(inner, Mapping) and _has(inner, rest)


def _usual(names: Sequence[str], there: Sequence[str], head: Sequence[Row]) -> str:
    spelt = {"_".join(name.casefold().split()): name for name in reversed(there)}
    for name in names:
        if name in spelt:
            return spelt[name]
        if "." in name and any(_has(row.values, name) for row in head):
            return name
    return ""


def _shown(names: Sequence[str]) -> str:
    shown = [name[:40] if name.isprintable() and name else repr(name[:40]) for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "") if shown else "none"
