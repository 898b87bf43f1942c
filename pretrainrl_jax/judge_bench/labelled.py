"""Labelled texts of a bench: lines of ours, and preferences."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pretrainrl_jax.config import FactsConfig, PreferencesConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.reading import read_rows
from pretrainrl_jax.improvement.labels import TEXTS, read_labels, settled
from pretrainrl_jax.preferences.reading import read_preferences
from pretrainrl_jax.preferences.record import Text, plain

SHIPPED = Path(__file__).with_name("world.jsonl")
VERDICTS = {"quality": 2, "safety": 2, "factuality": 3}  # of each part, where a file does not say


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


class Labelled(NamedTuple):
    """What was read."""

    items: list[Item]
    source: str
    read_as: str  # in words
    left_out: Counter[str]  # rows by reason
    verdicts: Mapping[str, int] = MappingProxyType(VERDICTS)  # of each part, how many labels there may be

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

    Read are, by their columns, lines of ours (`part`), and preferences (`chosen` and `rejected`), as quality.

    Args:
        path: a file of JSON lines, CSV, TSV or Parquet, or hf:NAME.
        split, subset: of an hf: data set.
        verdicts: of each part, the words that lines of ours may have as labels, the best first.

    Raises InputError if it cannot be read, has none of these columns, or holds no item.
    """
    settings = FactsConfig(path=path, split=split, subset=subset)
    try:
        rows = list(read_rows(settings))
    except InputError as error:
        raise InputError(_of_bench(error)) from None
    if not rows:
        raise InputError(f"{path} holds no rows: there is nothing to ask a judge")
    names = {name for row in rows for name in row.values}  # all keys of all rows count
    if "part" in names:
        read = _ours(path, verdicts)
        return read._replace(source="the small set that comes with us") if path == str(SHIPPED) else read
    if {"chosen", "rejected"} <= names:
        return _preferences(PreferencesConfig(path=path, split=split, subset=subset))
    columns = ", ".join(sorted(names)[:12])
    raise InputError(
        f"{path}: nothing says what is labelled: the columns are {columns}. Give part, its texts and a label "
        "(docs/judging.md), or prompt, chosen and rejected"
    )


def _settled(source: str, read_as: str, items: Sequence[Item], left_out: Counter[str]) -> Labelled:
    """Equal items once; those whose texts have another label elsewhere not at all."""

    def texts(item: Item) -> tuple[str, ...]:
        return (item.part, *(sorted(item.texts) if item.part == "quality" else item.texts))

    told = "whose texts have another label elsewhere"
    kept = settled(items, texts, lambda item: (item.label, item.texts), left_out, told)
    labelled = Labelled(kept, source, read_as, +left_out)
    if not kept:
        raise InputError(f"nothing labelled in {labelled.told}")
    return labelled


def _of_bench(error: InputError) -> str:
    """What readers of facts and preferences say, about the bench's own settings."""
    said = re.sub(r"(facts|preferences)\.path", "--bench", str(error))
    return re.sub(r"\b(facts|preferences)\.(split|subset)\b", r"bench.\2", said)


def _ours(path: str, verdicts: Mapping[str, Sequence[str]]) -> Labelled:
    labels = read_labels([path], verdicts, "--bench")
    items, left_out = [], Counter(labels.left_out)
    pairs: set[tuple[str, ...]] = set()
    for one in labels.examples:
        texts, label = one.texts, list(verdicts[one.part]).index(one.label)
        if one.part == "quality":
            prefix, *both = texts
            texts, label = (prefix, *(both[::-1] if label else both)), 0
            if texts in pairs:  # both orders are asked in any case
                left_out["the other order of a pair"] += 1
                continue
            pairs.add(texts)
        items.append(Item(one.part, texts, label, one.kind, one.where))
    read = _settled(path, "labelled lines", items, left_out)
    return read._replace(verdicts={part: len(words) for part, words in verdicts.items()})


def _preferences(settings: PreferencesConfig) -> Labelled:
    try:
        read = read_preferences(settings, 0)
    except InputError as error:
        raise InputError(_of_bench(error)) from None
    items = []
    for comparison in read.comparisons:
        prefix = written(comparison.prompt, True)
        for pair in comparison.pairs:
            texts = (prefix, written(pair.chosen), written(pair.rejected))
            items.append(Item("quality", texts, 0, "", settings.path))
    left_out = Counter(lost.rule for lost in read.dropped)
    return _settled(settings.path, "chosen and rejected answers", items, left_out)


def written(text: Text, opens: bool = False) -> str:
    """A text, or a conversation as text; one that `opens` ends where the assistant's answer begins."""
    if isinstance(text, str):
        return text
    if len(text) == 1 and text[0]["role"] == "assistant":
        return plain(text[0])
    turns = [f"{str(message['role']).capitalize()}: {plain(message)}" for message in text]
    return "\n\n".join([*turns, *(["Assistant:"] if opens else [])])
