"""When two answers are the same: normalisation, matching, and what counts as known to be true."""

import string
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

from pretrainrl_jax.facts.record import Fact

ARTICLES = frozenset({"a", "an", "the"})

Truths = Mapping[str, frozenset[str]]  # normalised, by the text of a question


class _Stripped(dict[int, int | None]):
    """A table for str.translate that looks each character up once: None deletes it."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        kind = unicodedata.category(character)
        # Invisible characters (Cf, Cc) go too: a soft hyphen or a direction mark changes no answer.
        dropped = kind[0] == "P" or character in string.punctuation or kind in ("Cf", "Cc")
        self[code] = None if dropped and not character.isspace() else code
        return self[code]


_STRIPPED = _Stripped()
# Of ASCII, which most texts are, the same in one look.
_LOWER = bytes(range(256)).lower()
_DELETED = bytes(code for code in range(128) if not chr(code).translate(_STRIPPED))


def _simplify(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _without_articles(text.translate(_STRIPPED))


def _without_articles(text: str) -> str:
    words = text.split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """The text in the form answers are compared in, after SQuAD's evaluation, for any script.

    Unicode NFKC and case folding; punctuation deleted ("U.S.A." is "usa"); the articles a, an, the dropped
    unless nothing else is there; runs of whitespace made one space. Returns "" for text of punctuation only.
    `normalise(normalise(text)) == normalise(text)`.
    """
    if text.isascii():  # where one pass is enough
        return _without_articles(text.encode().translate(_LOWER, _DELETED).decode())
    # It is not always: deleting a character can bring a letter and its accent together.
    while (simpler := _simplify(text)) != text:
        text = simpler
    return text


def _within(inner: str, outer: str) -> bool:
    """Both normalised: the words of one stand in a row in the other."""
    return bool(inner) and f" {inner} " in f" {outer} "


def overlaps(a: str, b: str) -> bool:
    """Whether one, normalised, is contained in the other on word boundaries; equal texts overlap.

    Words are what whitespace separates, so a text in a script without spaces is one word.
    """
    a, b = normalise(a), normalise(b)
    return _within(a, b) or _within(b, a)


def matches(answer: str, truths: Iterable[str], rule: Literal["exact", "contains"]) -> bool:
    """Whether an answer is right (PretrainRL, arXiv 2602.01875, leaves the rule open).

    "exact": it equals a truth, both normalised. "contains": a truth stands in it on word boundaries.
    A truth or an answer that normalises to nothing matches nothing. Raises ValueError for another rule.
    """
    if rule not in ("exact", "contains"):
        raise ValueError(f"unknown match rule {rule!r}: use 'exact' or 'contains'")
    answer = normalise(answer)
    normalised = (normalise(truth) for truth in truths)
    if rule == "exact":
        return any(truth == answer for truth in normalised if truth)
    return any(_within(truth, answer) for truth in normalised)


def known_truths(facts: Iterable[Fact]) -> dict[str, frozenset[str]]:
    """Everything true in answer to each wording of a question, normalised, over all facts and aliases.

    That is what any fact asked in these words says, whatever its category and subject, and what is true of
    its (subject key, category): a subject can have several facts in one relation (two occupations), and each
    answers both. A paraphrase is a wording, too, and so are rewordings.
    """
    by_subject: dict[tuple[str, str], set[str]] = {}
    keys: dict[str, dict[tuple[str, str], None]] = {}  # whom a wording asks about
    for fact in facts:
        key = (fact.subject_key, fact.category)
        by_subject.setdefault(key, set()).update(filter(None, map(normalise, fact.answers)))
        for wording in filter(None, (fact.question, fact.paraphrase, *fact.rewordings)):
            keys.setdefault(wording, {})[key] = None
    of_subject = {key: frozenset(answers) for key, answers in by_subject.items()}
    return {
        wording: frozenset[str]().union(*(of_subject[key] for key in asked))
        for wording, asked in keys.items()
    }


def truths_of(fact: Fact, wording: str, known: Truths) -> tuple[str, ...]:
    """What is true in answer to a fact's question in that wording: its answers, then what else is known."""
    return (*fact.answers, *known.get(wording, ()))


def why_dropped(text: str, fact: Fact, known: Truths, drop_overlapping: bool) -> str:
    """Why a candidate may not be a negative of the fact, or "" where it may (arXiv 2602.01875, negatives).

    "empty": nothing is left of it normalised. "known_true": it equals an alias of the answer or another
    truth in answer to the question. "overlaps": it contains one of them, or is contained in one, on word
    boundaries (only asked where `drop_overlapping`). `known` comes from `known_truths`; the fact's own
    answers count even if it lacks them.
    """
    candidate = normalise(text)
    if not candidate:
        return "empty"
    truths = known.get(fact.question, frozenset()).union(map(normalise, fact.answers))
    if candidate in truths:
        return "known_true"
    if drop_overlapping and any(overlaps(candidate, truth) for truth in truths):
        return "overlaps"
    return ""
