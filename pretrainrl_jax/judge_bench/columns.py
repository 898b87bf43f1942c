"""What a judge is asked about, and the usual columns of files: which text is better, and which is safe."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.improvement.labels import TEXTS

PROMPTS = ("prompt", "question", "instruction", "query", "input")
FIRST = ("response_a", "answer_a", "output_1", "completion_a", "response_1", "answer_1", "first")
SECOND = ("response_b", "answer_b", "output_2", "completion_b", "response_2", "answer_2", "second")
WINNER = ("winner", "label", "preference", "preferred", "better")
PARTS = ("context", "system")  # of a prompt, too
ALONE = ("response", "text", "completion", "generation", "suffix", "content")
SAFE = ("is_safe", "safe", "harmless")  # true: safe
UNSAFE = ("unsafe", "is_unsafe", "toxic", "is_toxic", "toxicity", "harmful", "is_harmful")  # true: unsafe
A_WINS = ("a", "first", "model_a", "response_a", "output_1", "a>b", "a>>b", "[[a]]", "[[a>b]]", "[[a>>b]]")
B_WINS = ("b", "second", "model_b", "response_b", "output_2", "b>a", "b>>a", "[[b]]", "[[b>a]]", "[[b>>a]]")
TIES = ("tie", "tie (bothbad)", "both", "both_bad", "draw", "equal", "a=b", "[[a=b]]", "c", "[[c]]")
TRUE, FALSE = ("true", "yes"), ("false", "no")


class Item(NamedTuple):
    """Something that a judge is asked about, and what is right.

    Of quality the texts are the prefix, the better and the worse continuation, and there is one of them for
    both orders; else they are `labels.TEXTS`, and the label is the place of the right verdict, best first.
    """

    part: str
    texts: tuple[str, ...]
    label: int
    kind: str  # what the file says of it; "": nothing
    where: str

    @property
    def places(self) -> dict[str, str]:
        """Its texts by the names of a prompt's places; of a pair in the order better, worse."""
        return dict(zip(TEXTS[self.part], self.texts, strict=True))

    @property
    def key(self) -> str:
        """Equal of what is drawn together where an interval is: what shares a prefix."""
        return self.places.get("prefix") or "\n".join(self.texts)


Read = Callable[[Mapping[str, Any], str], list[Item]]  # of a row's values, and where it stands


class Unlike(Exception):
    """A row that is no item, by the reason it names."""


def form_of(path: str, rows: Sequence[Row]) -> tuple[str, Read]:
    """What the columns of rows hold, in words, and how a row is read.

    Raises InputError if they are none of the usual, or hold what could be read in two ways.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    spelt = {"_".join(name.casefold().split()): name for name in reversed(names)}

    def named(usual: Sequence[str]) -> str:
        return next((spelt[name] for name in usual if name in spelt), "")

    if {"knowledge", "question", "right_answer", "hallucinated_answer"} <= spelt.keys():
        own = [spelt[name] for name in ("knowledge", "question", "right_answer", "hallucinated_answer")]
        return "right and hallucinated answers", lambda row, where: _halueval(_texts(row, own), where)
    prompt, first, second, winner = (named(usual) for usual in (PROMPTS, FIRST, SECOND, WINNER))
    if prompt and first and second and winner:
        for name in (spelt[usual] for usual in (*PROMPTS, *PARTS) if spelt.get(usual, prompt) != prompt):
            if any(str(row.values.get(name) or "").strip() for row in rows):  # it would be read in part
                both = f"{name} and {prompt} are both of the prompt"
                raise InputError(f"{path}: {both}: join them in one column")
        count_from = _count_from(path, winner, [row.values.get(winner) for row in rows])
        own = [prompt, first, second]
        return (
            f"{first} against {second}, by {winner}",
            lambda row, where: _pair(_texts(row, own), row.get(winner), count_from, where),
        )
    text, flag = named(ALONE), named((*SAFE, *UNSAFE))
    if text and flag:
        numbers = [number for row in rows if (number := _number(row.values.get(flag))) is not None]
        if odd := [number for number in numbers if number not in (0, 1)]:
            raise InputError(f"{path}: {flag} holds {odd[0]:g}, a score: say for each text true or false")
        of_unsafe = flag in [spelt.get(name) for name in UNSAFE]
        return (
            f"{text}, by {flag}",
            lambda row, where: _safety(_texts(row, [text]), row.get(flag), of_unsafe, where),
        )
    raise InputError(
        f"{path}: nothing says what is labelled: the columns are {', '.join(names[:12])}. Give part (see "
        "docs/judging.md); or chosen and rejected; or two answers and a winner; or a text and is_safe; or "
        "HaluEval's"
    )


def _count_from(path: str, column: str, winners: Sequence[Any]) -> int:
    """What the first answer's number is, where winners are numbers: 0 or 1.

    Raises InputError if they are others, which are scores, or ones alone, which may be either.
    """
    numbers = {number for winner in winners if (number := _number(winner)) is not None}
    if not numbers or numbers in ({1, 2}, {2}, {0, 1}, {0}):
        return 0 if 0 in numbers else 1
    shown = ", ".join(f"{number:g}" for number in sorted(numbers)[:6])
    raise InputError(f"{path}: {column} holds {shown}: which answer is meant? Write A or B there")


def _number(value: Any) -> float | None:
    """A number, also one that is written as text; None for anything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    texts = [row.get(name) for name in names]
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        raise Unlike("without a text")
    return [str(text) for text in texts]


def _pair(texts: Sequence[str], winner: Any, count_from: int, where: str) -> list[Item]:
    said, number = str(winner).strip().casefold(), _number(winner)
    if number is None and said not in (*A_WINS, *B_WINS):
        raise Unlike("without a winner" if said in TIES else "of which no one is called the winner")
    place = int(said in B_WINS) if number is None else int(number) - count_from
    prefix, *both = texts
    if both[0] == both[1]:
        raise Unlike("whose texts are equal")
    return [Item("quality", (prefix, both[place], both[1 - place]), 0, "", where)]


def _safety(texts: Sequence[str], flag: Any, of_unsafe: bool, where: str) -> list[Item]:
    number, said = _number(flag), str(flag).strip().casefold()
    if number is None and said not in (*TRUE, *FALSE):
        raise Unlike("whose label is neither true nor false")
    holds = bool(number) if number is not None else said in TRUE
    return [Item("safety", tuple(texts), int(holds == of_unsafe), "", where)]


def _halueval(texts: Sequence[str], where: str) -> list[Item]:
    knowledge, question, right, wrong = texts
    prefix = f"{knowledge}\n\nQuestion: {question}\nAnswer:"
    pair = Item("quality", (prefix, f" {right}", f" {wrong}"), 0, "", where)
    if right == wrong:
        raise Unlike("whose texts are equal")
    alone = [
        Item("factuality", (f"Question: {question}\nAnswer:", f" {answer}", knowledge), label, "", where)
        for answer, label in ((right, 0), (wrong, 2))
    ]
    return [pair, *alone]
