"""EntityQuestions (Sciavolino et al., 2021): a folder with one JSON file of questions for each relation."""

import re
from collections.abc import Iterator

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.files import Row, Source, is_folder, names_in
from pretrainrl_jax.facts.tables import read_json
from pretrainrl_jax.facts.wordings import subject_of

FILE = re.compile(r"(P(\d+))(?:\.(\w+))?\.json")  # P17.train.json, or P17.json


def read_entityquestions(place: str, settings: Source) -> Iterator[Row]:
    """Every question of the folder's relations, in the order of their numbers.

    The relation is the category, "P17:57" the id of its item 57, and the subject is what the question asks
    about, where it is worded as its relation's questions are. Raises InputError for a folder without such
    files, or a file that is not a JSON list of objects.
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
    return [match for name in names_in(folder) if (match := FILE.fullmatch(name))]
