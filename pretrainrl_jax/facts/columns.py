"""Which column of a source means what: the settings of facts.columns first, then the usual names."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pretrainrl_jax.config import ColumnsConfig, FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.survey import Survey

# The usual names, most telling first; PopQA's are among them. Capitals and spaces do not matter. Of each the
# first that is there is used, of `answers` all: what any of them says is true.
USUAL: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "problem", "input"),
    "answer": ("answer.value", "answer", "object", "obj", "o"),
    "answers": (
        "answer.aliases", "answer.normalizedaliases", "answer.normalized_aliases", "answers.text", "answers",
        "output.answer", "possible_answers", "answer_aliases", "aliases", "o_aliases", "obj_aliases",
        "object_aliases",
    ),
    "category": ("category", "relation", "prop", "property", "predicate", "p"),
    "subject": ("subject", "subj", "s"),
    "subject_key": ("subject_key", "subject_id", "subj_id"),
    "popularity": ("popularity", "s_pop", "subject_popularity", "pop"),
    "answer_popularity": ("answer_popularity", "o_pop", "object_popularity"),
    "id": ("id", "question_id", "questionid"),
    "rewordings": ("rewordings", "paraphrases"),
}  # fmt: skip
EITHERS = "aliases"  # of the subject or of the answer, where both are there


@dataclass(frozen=True)
class Columns:
    """The column of each meaning by its path, "" where there is none, and what is not read."""

    question: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()
    category: str = ""
    subject: str = ""
    subject_key: str = ""
    popularity: str = ""
    answer_popularity: str = ""
    id: str = ""
    rewordings: str = ""
    unread: tuple[str, ...] = ()

    @cached_property
    def true(self) -> tuple[str, ...]:
        """Where the answers stand, the canonical one first."""
        return tuple(dict.fromkeys(filter(None, (self.answer, *self.answers))))


def choose_columns(seen: Survey, settings: FactsConfig, at: str) -> Columns:
    """The columns of a source that was looked through.

    A column is there if any row has it; a template for the question makes its column optional. Raises
    InputError, naming the place, if a column that the settings name is not there or holds no text, or none
    for question or answer, or if `aliases` may be the subject's.
    """
    there = _there(seen)
    chosen: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(ColumnsConfig)):
        named = _named(seen, getattr(settings.columns, name), name == "answers")
        for path in named:
            check_column(seen, path, f"facts.columns.{name}", at)
        usual = [path for path in (_usual(seen, usual) for usual in USUAL[name]) if path]
        # A blank column serves where none is filled, unless it holds objects in other rows.
        filled = [path for path in usual if seen.columns[path].filled]
        paths = named or filled or [path for path in usual if path not in seen.objects]
        chosen[name] = tuple(paths) if name == "answers" else (*paths, "")[0]
    if not chosen["question"] and not (settings.questions and chosen["subject"]):
        instead = "set facts.columns.question, or give facts.questions a template"
        if settings.questions:
            instead = "nor for the subject that facts.questions asks about: set facts.columns.subject"
        raise InputError(f"{at}: no column for the question, {instead}; there are {there}")
    if not chosen["answer"] and not chosen["answers"]:
        instead = "as answer, answers or possible_answers: set facts.columns.answer or facts.columns.answers"
        raise InputError(f"{at}: no column for the answer, {instead}; there are {there}")
    either = _usual(seen, EITHERS)
    unnamed = not settings.columns.answers and either in chosen["answers"] and seen.columns[either].filled
    if unnamed and chosen["subject"]:
        raise InputError(
            f"{at}: {either} may be other names of {chosen['subject']} or of the answer: name what is true "
            f"in facts.columns.answers, as {either}, or where they are the subject's as "
            f"{chosen['answer'] or chosen['answers'][0]}"
        )
    columns = Columns(**chosen)
    used = {*columns.true, *(value for value in chosen.values() if isinstance(value, str))}
    return dataclasses.replace(columns, unread=tuple(path for path in seen.columns if path not in used))


def _named(seen: Survey, name: str, several: bool) -> list[str]:
    """The columns of a setting: several, with commas between, where that is no name itself."""
    if not several or "," not in name or name in seen.columns:
        return [name] if name else []
    return [part.strip() for part in name.split(",") if part.strip()]


def check_column(seen: Survey, path: str, setting: str, at: str) -> None:
    """The column is there, and holds more than objects: raises InputError, naming the setting, if not."""
    if path in seen.columns:
        return
    if inside := seen.inside(path):
        example = f"name one of them, as {setting}={inside[0]}"
        raise InputError(f"{at}: {path} ({setting}) holds no text but {shown(inside)}: {example}")
    raise InputError(f"{at}: no column {shown([path])} ({setting}); there are {_there(seen)}")


def _usual(seen: Survey, usual: str) -> str:
    """The column that has a usual name, in whatever capitals."""
    for path in seen.columns if usual not in seen.columns else (usual,):
        if "_".join(path.casefold().split()) == usual:
            return path
    return ""


def _there(seen: Survey) -> str:
    return shown(list(seen.columns))


def shown(names: Sequence[str], most: int = 20) -> str:
    """Names of columns, the first ones, without what a terminal would obey."""
    named = [name[:40] if name.isprintable() and name else repr(name[:40]) for name in names[:most]]
    return (
        ", ".join(named) + (f" and {len(names) - most} more" if len(names) > most else "")
        if named
        else "none"
    )
