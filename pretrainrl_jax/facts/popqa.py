"""PopQA (Mallen et al., 2023), as its authors publish it: one tab-separated file."""

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.wordings import paraphrase

REQUIRED = ("subj", "prop", "question", "possible_answers", "s_pop")


def read_popqa(path: str | Path) -> list[Fact]:
    """The facts of a PopQA file, in its order.

    The columns `id`, `subj_id` and `obj` may be blank or missing. A blank `id`, or one that an earlier row
    has taken, becomes "row" and the line's number; a blank `subj_id` becomes the subject's name. `obj` stands
    first among the answers where it is one of them. Whitespace inside a field is collapsed, for an answer is
    one line.

    Raises InputError for a file that cannot be read, lacks a column of `REQUIRED`, has no rows, or has a row
    that is malformed; the message names the file and the line.
    """
    taken: set[str] = set()
    facts = [_fact(fields, f"{path}, line {line}", line, taken) for line, fields in _rows(Path(path))]
    if not facts:
        raise InputError(f"no facts in {path}: the file has a header and nothing else")
    return facts


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by column name, with the line it begins on."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Strict, or a stray quotation mark would silently swallow the rows up to the next one.
            reader = csv.reader(file, delimiter="\t", strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            line = reader.line_num + 1
            for fields in reader:
                if any(field.strip() for field in fields):
                    if len(fields) != len(header):
                        raise InputError(
                            f"{path}, line {line}: {len(fields)} columns where the header has {len(header)}: "
                            "separate them with tabs, and double the quotation marks inside a quoted one"
                        )
                    yield (
                        line,
                        {name: " ".join(field.split()) for name, field in zip(header, fields, strict=True)},
                    )
                line = reader.line_num + 1
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot read the PopQA file {path}: {reason}; check facts.path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8 or check facts.path") from None
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: not a tab-separated row ({error}): check its quotation marks"
        ) from None


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(
            f"{path}, line 1: no column {', '.join(missing)}: facts.path must be a tab-separated file with "
            f"the columns {', '.join(REQUIRED)}"
        )


def _fact(fields: dict[str, str], where: str, line: int, taken: set[str]) -> Fact:
    for name in ("subj", "prop", "question"):
        if not fields[name]:
            raise InputError(f"{where}: {name} is blank: fill it in or remove the row")
    own = fields.get("id", "")
    # Public copies of the file hold some ids twice; "row…" is refused as an id so that it never clashes.
    identifier = f"row{line}" if not own or own in taken or re.fullmatch(r"row\d+", own) else own
    taken.add(identifier)
    return Fact(
        id=identifier,
        question=fields["question"],
        answers=_answers(fields["possible_answers"], fields.get("obj", ""), where),
        category=fields["prop"],
        subject=fields["subj"],
        subject_key=fields.get("subj_id", "") or fields["subj"],
        popularity=_popularity(fields["s_pop"], where),
        row=line,
        paraphrase=paraphrase(fields["prop"], fields["subj"]),
    )


def _answers(text: str, canonical: str, where: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
        if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
            raise ValueError
        "".join(found).encode()  # JSON can spell half of a surrogate pair, which is no text
    except (ValueError, RecursionError):
        raise InputError(
            f'{where}: possible_answers is not a JSON list of strings: write it as ["first", "second"]'
        ) from None
    answers = [answer for answer in (" ".join(answer.split()) for answer in found) if answer]
    if not answers:
        raise InputError(f"{where}: possible_answers names no answer: add one or remove the row")
    if canonical in answers:
        answers.insert(0, canonical)
    return tuple(dict.fromkeys(answers))


def _popularity(text: str, where: str) -> float:
    try:
        popularity = float(text)
    except ValueError:
        popularity = math.nan
    if not (math.isfinite(popularity) and popularity >= 0):
        raise InputError(f"{where}: s_pop is {text!r}: it must be a number, zero or more")
    return popularity
