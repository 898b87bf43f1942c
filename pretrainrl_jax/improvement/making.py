"""Labelled texts made of documents: what is asked about each, what is kept of it, and what is counted."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.judging.parts import Answer, Texts
from pretrainrl_jax.judging.prompts import PLACE, Prompt
from pretrainrl_jax.judging.repetition import WORD

FIRST = 2  # samples of each verdict that are asked for first: where they differ no more are
DISAGREED, UNREADABLE = "disagreed", "unreadable"

Json = dict[str, Any]


class Piece(NamedTuple):
    """A document, cut in two."""

    number: int  # in the stream
    source: str  # where it comes from
    prefix: str
    suffix: str


class Found(NamedTuple):
    """A document that rules and blocklist let through, cut in two."""

    piece: Piece
    text: str  # all of it
    shown: str  # the end of the prefix, as the judge sees it
    blocked: int  # words of the blocklist in it


class Question(NamedTuple):
    """What a judge is asked, several times."""

    number: int  # of the document
    texts: Texts  # by the names of a prompt's places
    wanted: str = ""  # the one verdict that is of use; empty: any is


class Agreed(NamedTuple):
    """What all samples of a verdict say."""

    verdict: str | None
    why: str = ""  # DISAGREED or UNREADABLE where they say nothing together


class Made(NamedTuple):
    """What was made of some documents."""

    rows: dict[str, list[Json]]  # lines by the name of their file
    counts: Counter[str]


Agree = Callable[[str, Sequence[Question]], Sequence[Agreed]]
"""Asks a judge's part."""
Corrupt = Callable[[str, Sequence[Piece]], Sequence[str | None]]
"""Spoils suffixes by the prompt so named; None for what is malformed."""


def agreed(answer: Answer, verdicts: Sequence[str]) -> Agreed:
    """The verdict that all samples of an answer give. One that cannot be read agrees with none."""
    if answer.shares is None or answer.counts.get("unreadable"):
        return Agreed(None, UNREADABLE)
    if max(answer.shares) < 1:
        return Agreed(None, DISAGREED)
    return Agreed(verdicts[[*answer.shares].index(1)])


def drawn(answer: Answer, samples: int, seed: int, question: Question) -> Answer:
    """The answer of a judge that gives probabilities, if it is sampled: so many verdicts drawn from them.

    The draw depends on the seed, the document's number and the texts alone.
    """
    shares = np.array([np.nan] if answer.shares is None else answer.shares, np.float64)
    if not np.isfinite(shares).all():
        return Answer(None, {"unreadable": samples})
    texts = zlib.crc32(repr(sorted(question.texts.items())).encode("utf-8", "replace"))
    random = np.random.default_rng([seed, 9, question.number, texts])
    return Answer((random.multinomial(samples, shares / shares.sum()) / samples).tolist())


def in_rounds(
    ask: Callable[[Sequence[Question], int], Sequence[Agreed]], questions: Sequence[Question], samples: int
) -> list[Agreed]:
    """What `samples` verdicts on each question say together; where FIRST of them settle it no more are asked.

    `ask` asks for that many samples; of those that it was asked for before it pays none again.
    """
    found = list(ask(questions, min(FIRST, samples)))
    if samples > FIRST:
        going_on = [
            place
            for place, (question, one) in enumerate(zip(questions, found, strict=True))
            if one.verdict is not None and question.wanted in ("", one.verdict)
        ]
        rest = ask([questions[place] for place in going_on], samples)
        for place, one in zip(going_on, rest, strict=True):
            found[place] = one
    return found


def echoes(prompt: Prompt, text: str) -> bool:
    """Whether a text holds a line of the prompt's own, or breaks off in one: a model that did not stop."""
    own = [line.strip() for line in prompt.text.splitlines() if line.strip() and not PLACE.search(line)]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    broken_off = len(lines) > 1 and any(line.startswith(lines[-1]) for line in own)
    return broken_off or not set(own).isdisjoint(lines)


def judge_lines(
    pieces: Sequence[Piece],
    corruptions: Sequence[str],
    corrupt: Corrupt | None,
    agree: Agree,
    asked: Sequence[str],
    verdicts: Mapping[str, Sequence[str]],
    told: Mapping[str, str],
) -> Made:
    """Lines for a judge to learn from, as `labels.read_labels` reads them, in the order of the documents.

    Args:
        corruptions: names of prompts; each document gets one, in turn by its number.
        corrupt: None where no model writes: then there are no pairs.
        asked: parts of the judge that are asked; a pair that quality is not asked about is kept as it is.
        verdicts: of each part, the best first.
        told: "writer" and "judge": what their models are called.
    """
    counts: Counter[str] = Counter(documents=len(pieces))
    by_document: list[list[Json]] = [[] for _ in pieces]
    spoilt = _spoilt(pieces, corruptions, corrupt, counts) if corrupt else {}
    whole = _preferred(pieces, spoilt, agree, verdicts["quality"], counts) if "quality" in asked else spoilt
    for at in whole:
        piece, (name, text) = pieces[at], spoilt[at]
        by = {"corruption": name, "source": piece.source, "writer": told["writer"]}
        by |= {"judge": told["judge"]} if "quality" in asked else {}
        orders = (piece.suffix, text), (text, piece.suffix)
        for (first, second), label in zip(orders, verdicts["quality"], strict=True):
            texts = {"part": "quality", "prefix": piece.prefix, "first": first, "second": second}
            by_document[at].append({**texts, "label": label, **by})
    alone: dict[str, dict[int, Texts]] = {
        "safety": {at: {"suffix": piece.suffix} for at, piece in enumerate(pieces)},
        "factuality": {
            at: {"prefix": pieces[at].prefix, "suffix": text, "reference": pieces[at].suffix}
            for at, (_, text) in spoilt.items()
        },
    }
    for part in [name for name in alone if name in asked]:
        found = agree(part, [Question(pieces[at].number, texts) for at, texts in alone[part].items()])
        counts.update(f"{part}.{one.verdict or one.why}" for one in found)
        for (at, texts), one in zip(alone[part].items(), found, strict=True):
            by = {"source": pieces[at].source, "judge": told["judge"]}
            if part == "factuality":
                by = {"corruption": spoilt[at][0], "source": pieces[at].source, **told}
            if one.verdict:
                by_document[at].append({"part": part, **texts, "label": one.verdict, **by})
    return Made({"judge-data": [row for rows in by_document for row in rows]}, counts)


def _spoilt(
    pieces: Sequence[Piece], corruptions: Sequence[str], corrupt: Corrupt, counts: Counter[str]
) -> dict[int, tuple[str, str]]:
    """Of the place of each document that was corrupted, how, and the text; in order."""
    spoilt: dict[int, tuple[str, str]] = {}
    for turn, prompt in enumerate(corruptions):
        places = [at for at, piece in enumerate(pieces) if piece.number % len(corruptions) == turn]
        for at, text in zip(places, corrupt(prompt, [pieces[at] for at in places]), strict=True):
            name, original = prompt.removeprefix("corrupt_"), pieces[at].suffix
            words = WORD.findall((text or "").casefold())
            if text is None or not text.strip():
                counts[f"corruptions.{name}.malformed"] += 1
            elif WORD.findall(original.casefold())[: len(words)] == words:  # nothing is wrong with that
                counts[f"corruptions.{name}.same"] += 1
            else:
                counts[f"corruptions.{name}.used"] += 1
                counts["characters.originals"] += len(original)
                counts["characters.corruptions"] += len(text)
                spoilt[at] = (name, text)
    return dict(sorted(spoilt.items()))


def _preferred(
    pieces: Sequence[Piece],
    spoilt: Mapping[int, tuple[str, str]],
    agree: Agree,
    verdicts: Sequence[str],
    counts: Counter[str],
) -> list[int]:
    """The places of the documents whose original all samples prefer in both orders."""
    questions = []
    for at, (_, text) in spoilt.items():
        original = pieces[at].suffix
        for (first, second), right in zip(((original, text), (text, original)), verdicts, strict=True):
            texts = {"prefix": pieces[at].prefix, "first": first, "second": second}
            questions.append(Question(pieces[at].number, texts, right))
    found = agree("quality", questions)
    kept = []
    for number, at in enumerate(spoilt):
        both = found[2 * number : 2 * number + 2]
        whys = [one.why for one in both if one.verdict is None]
        if [one.verdict for one in both] == list(verdicts):
            counts["quality.original"] += 1
            kept.append(at)
        elif whys:
            counts[f"quality.{UNREADABLE if UNREADABLE in whys else DISAGREED}"] += 1
        else:  # both orders prefer the corruption, or one place
            counts["quality.otherwise"] += 1
    return kept


def unsafe_lines(
    found: Sequence[Found], agree: Agree | None, verdicts: Sequence[str], told: Mapping[str, str]
) -> Made:
    """Documents whose prefix a judge calls unsafe; and their suffixes, where all samples agree on them.

    Without a judge all that were found are kept, and no suffixes. `verdicts` are of its safety, the best
    first: the last means unsafe.
    """
    counts: Counter[str] = Counter()
    safest, worst = verdicts[0], verdicts[-1]
    by = {"judge": told["judge"]} if agree else {}
    kept, suffixes = list(found), []
    if agree:
        asked = [Question(one.piece.number, {"suffix": one.shown}, worst) for one in found]
        answers = agree("safety", asked)
        counts.update(f"prefix.{one.verdict or one.why}" for one in answers)
        kept = [one for one, said in zip(found, answers, strict=True) if said.verdict == worst]
        pieces = [one.piece for one in kept]
        said = agree("safety", [Question(piece.number, {"suffix": piece.suffix}) for piece in pieces])
        counts.update(f"suffix.{one.verdict or one.why}" for one in said)
        suffixes = [
            {"prefix": piece.prefix, "suffix": piece.suffix, "safe": one.verdict == safest}
            | {"source": piece.source, **by}
            for piece, one in zip(pieces, said, strict=True)
            if one.verdict in (safest, worst) and piece.suffix.strip()
        ]
    documents = [
        {"text": one.text, "prefix": one.piece.prefix, "suffix": one.piece.suffix, "blocked": one.blocked}
        | {"source": one.piece.source, **by}
        for one in kept
    ]
    return Made({"unsafe-data": documents} | ({"rewriter-data": suffixes} if agree else {}), counts)


def told(counts: Counter[str]) -> list[str]:
    """What was counted, a line for each step; and how long texts are, which a judge could learn alone."""
    steps: dict[str, list[str]] = {}
    for key, number in counts.items():
        step, _, what = key.rpartition(".")
        steps.setdefault(step, []).append(f"{number:,} {what}")
    lines = [
        f"{step.replace('.', ' ') or 'read'}: {', '.join(own)}"
        for step, own in steps.items()
        if step not in ("lines", "characters")
    ]
    if used := sum(n for key, n in counts.items() if key.startswith("corr") and key.endswith(".used")):
        means = [counts[f"characters.{what}"] / used for what in ("originals", "corruptions")]
        lines.append("mean length of originals {:.0f} characters, of corruptions {:.0f}".format(*means))
    return lines
