"""Labelled texts of a bench: lines of ours, preferences, and the usual columns of judges' data sets."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.config import PreferencesConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.cleaning import SURROGATE
from pretrainrl_jax.facts.files import Row, named_for
from pretrainrl_jax.facts.reading import read_rows
from pretrainrl_jax.improvement.labels import About, examples_of, settled
from pretrainrl_jax.preferences.reading import read_preferences
from pretrainrl_jax.preferences.record import Text, plain

SHIPPED = Path(__file__).with_name("world.jsonl")
VERDICTS = {"quality": 2, "safety": 2, "factuality": 3}  # of each part, where a file does not say

# Columns, by their usual names in any case of letters.
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


Item = About[int]
"""Something that a judge is asked about, and the place of the right verdict, best first.

Of quality its texts are the prefix, the better and the worse continuation: there is one for both orders.
"""
Read = Callable[[Mapping[str, Any], str], list[Item]]  # of a row's values, and where it stands


class Unlike(Exception):
    """A row that is no item, by the reason it names."""


class Labelled(NamedTuple):
    """What was read."""

    items: list[Item]
    source: str
    read_as: str  # in words
    left_out: Counter[str]  # rows by reason
    verdicts: Mapping[str, int] = VERDICTS  # of each part, how many labels there may be

    @property
    def told(self) -> str:
        """In words."""
        counts = Counter(item.part for item in self.items)
        kept = ", ".join(f"{count:,} of {part}" for part, count in counts.items())
        lost = "".join(f"; {count:,} {why}" for why, count in self.left_out.items())
        return f"{self.source}: {self.read_as}: {kept}{lost}"


def read_labelled(
    path: str, verdicts: Mapping[str, Sequence[str]], split: str = "train", subset: str = ""
) -> Labelled:
    """The labelled texts of a file or data set, equal ones once; of texts with two labels none.

    Read are, by their columns: lines of ours (`part`); a text before and two after it, of which one is called
    the better (`chosen` and `rejected`, or two answers and a winner), as quality; a text and whether it is
    safe, as safety; `right_answer` and `hallucinated_answer` beside `knowledge` (HaluEval), as quality and
    factuality.

    Args:
        path: a file of JSON lines, CSV, TSV or Parquet, or hf:NAME.
        verdicts: of each part, the words that lines of ours may have as labels, the best first.
        split, subset: of an hf: data set.

    Raises InputError if it cannot be read, has none of these columns, or holds no item.
    """
    settings = PreferencesConfig(path=path, split=split, subset=subset)  # or of what is no preferences
    try:
        with named_for("preferences", settings):
            rows = list(read_rows(settings))
        names = {name for row in rows for name in row.values}  # all keys of all rows count
        if "part" not in names and {"chosen", "rejected"} <= names:
            return _preferences(settings)
    except InputError as error:
        told = re.sub(r"\bpreferences\.path\b", "--bench", str(error))
        told = re.sub(r"\bpreferences\.(?=(split|subset)\b)", "bench.", told)
        told = re.sub(r", or set preferences\.encoding.*", "", told)  # a bench has no other settings
        told = re.sub(r": (set|check|name one in) preferences\..*", ": save it as JSON lines, .jsonl", told)
        raise InputError(told) from None
    if not rows:
        raise InputError(f"{path} holds no rows: there is nothing to ask a judge")
    if "part" in names:
        return _ours(path, rows, verdicts)
    read_as, read = form_of(path, rows)
    left_out: Counter[str] = Counter()
    items: list[Item] = []
    for row in rows:
        try:
            items += read(row.values, row.where)
        except Unlike as why:
            left_out[str(why)] += 1
    return _settled(Labelled(items, path, read_as, left_out))


def _settled(read: Labelled) -> Labelled:
    """Equal items once; those whose texts have another label elsewhere not at all."""

    def texts(item: Item) -> tuple[str, ...]:
        return (item.part, *(sorted(item.texts) if item.part == "quality" else item.texts))

    kept = settled(read.items, texts, read.left_out)
    read = read._replace(items=kept, left_out=+read.left_out)
    if not kept:
        raise InputError(f"nothing labelled in {read.told}")
    return read


def _ours(path: str, rows: Sequence[Row], verdicts: Mapping[str, Sequence[str]]) -> Labelled:
    items: list[Item] = []
    left_out = Counter[str]()
    pairs: dict[tuple[str, ...], int] = {}  # the label with which each was seen first
    for one in examples_of(rows, verdicts, left_out):
        texts, label = one.texts, list(verdicts[one.part]).index(one.label)
        if one.part == "quality":
            prefix, *both = texts
            texts = (prefix, *(both[::-1] if label else both))
            if pairs.setdefault(texts, label) != label:  # both orders are asked in any case
                left_out["the other order of a pair"] += 1
                continue
            label = 0
        items.append(Item(one.part, texts, label, one.where, one.kind))
    source = "the small set that comes with us" if path == str(SHIPPED) else path
    counts = {part: len(words) for part, words in verdicts.items()}
    return _settled(Labelled(items, source, "labelled lines", left_out, counts))


def _preferences(settings: PreferencesConfig) -> Labelled:
    read = read_preferences(settings, 0)
    items = []
    for comparison in read.comparisons:
        prefix = written(comparison.prompt, True)
        for pair in comparison.pairs:
            texts = (prefix, written(pair.chosen), written(pair.rejected))
            items.append(Item("quality", texts, 0, settings.path))
    left_out = Counter(lost.rule for lost in read.dropped)
    return _settled(Labelled(items, settings.path, "chosen and rejected answers", left_out))


def written(text: Text, opens: bool = False) -> str:
    """A text, or a conversation as text; one that `opens` ends where the assistant's answer begins."""
    if isinstance(text, str):
        return text
    if len(text) == 1 and text[0]["role"] == "assistant":
        return plain(text[0])
    turns = [f"{str(message['role']).capitalize()}: {plain(message)}" for message in text]
    return "\n\n".join([*turns, *(["Assistant:"] if opens else [])])


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
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and not math.isnan(number := float(value)):
            return number
    return None


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    texts = [row.get(name) for name in names]
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        raise Unlike("without a text")
    if any(SURROGATE.search(str(text)) for text in texts):
        raise Unlike("with half of a surrogate pair")
    return [str(text) for text in texts]


def _pair(texts: Sequence[str], winner: Any, count_from: int, where: str) -> list[Item]:
    said, number = str(winner).strip().casefold(), _number(winner)
    if number is None and said not in (*A_WINS, *B_WINS):
        raise Unlike("without a winner" if said in TIES else "of which no one is called the winner")
    place = int(said in B_WINS) if number is None else int(number) - count_from
    prefix, *both = texts
    if both[0] == both[1]:
        raise Unlike("whose texts are equal")
    return [Item("quality", (prefix, both[place], both[1 - place]), 0, where)]


def _safety(texts: Sequence[str], flag: Any, of_unsafe: bool, where: str) -> list[Item]:
    number, said = _number(flag), str(flag).strip().casefold()
    if number is None and said not in (*TRUE, *FALSE):
        raise Unlike("whose label is neither true nor false")
    holds = bool(number) if number is not None else said in TRUE
    return [Item("safety", tuple(texts), int(holds == of_unsafe), where)]


def _halueval(texts: Sequence[str], where: str) -> list[Item]:
    knowledge, question, right, wrong = texts
    prefix = f"{knowledge}\n\nQuestion: {question}\nAnswer:"
    pair = Item("quality", (prefix, f" {right}", f" {wrong}"), 0, where)
    if right == wrong:
        raise Unlike("whose texts are equal")
    alone = [
        Item("factuality", (f"Question: {question}\nAnswer:", f" {answer}", knowledge), label, where)
        for answer, label in ((right, 0), (wrong, 2))
    ]
    return [pair, *alone]
