"""Labelled texts that a judge or a rewriter learns from: JSONL files, read, checked, counted, split."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pretrainrl_jax.config import FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.cleaning import SURROGATE
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.tables import read_json_lines

TEXTS = {  # of each part, the texts that a line has
    "quality": ("prefix", "first", "second"),
    "safety": ("suffix",),
    "factuality": ("prefix", "suffix", "reference"),
    "rewrite": ("prefix", "suffix"),
}
KINDS = ("kind", "corruption")  # keys of a line that say what its texts are
T = TypeVar("T")
SAFE = {True: "safe", False: "unsafe"}  # labels of a suffix that is to be copied, or rewritten


class About(NamedTuple, Generic[T]):
    """Texts, and what is to be said of them."""

    part: str  # of a judge; or "rewrite"
    texts: tuple[str, ...]  # by `TEXTS`
    label: T
    where: str  # file and line
    kind: str = ""  # what the line says of its texts, as how one of them was corrupted

    @property
    def places(self) -> dict[str, str]:
        """Its texts by name."""
        return dict(zip(TEXTS[self.part], self.texts, strict=True))

    @property
    def key(self) -> str:
        """Equal of all that must be on one side of a split: what shares a prefix, a pair in both orders."""
        return self.places.get("prefix") or json.dumps(sorted(self.texts))


Labelled = About[str]
"""Its label is a verdict of the part's prompt; of a rewrite, of `SAFE`."""


class Labels(NamedTuple):
    """What was read."""

    examples: list[Labelled]
    lines: int
    left_out: Counter[str]  # lines that are not among the examples, by reason

    @property
    def told(self) -> str:
        """In words."""
        by_part: dict[str, Counter[str]] = {}
        for one in self.examples:
            by_part.setdefault(one.part, Counter()).update([one.label])
        kept = "; ".join(
            f"{part} " + ", ".join(f"{n:,} {label}" for label, n in sorted(own.items()))
            for part, own in by_part.items()
        )
        lost = "".join(f"; {n:,} {why}" for why, n in self.left_out.items())
        return f"{self.lines:,} lines: {kept or 'none learned'}{lost}"


def read_labels(paths: Sequence[str], verdicts: Mapping[str, Sequence[str]], setting: str) -> Labels:
    """The examples of files, equal ones once; of texts with two labels none.

    `verdicts` has the labels of each part that is wanted; {"rewrite": …} is for a rewriter's lines. `setting`
    names the files.

    Raises InputError if a file cannot be read, a line is not as it must be, or no example is left.
    """
    if not paths:
        raise InputError(f"{setting} is empty: name files of labelled texts, one JSON object a line")
    try:
        rows = [row for path in paths for row in read_json_lines(path, FactsConfig())]
    except InputError as error:
        told = re.sub(r", or set facts\.encoding.*", "", str(error)).replace("facts.path", setting)
        raise InputError(told) from None
    left_out = Counter[str]()
    read = examples_of(rows, verdicts, left_out)
    examples = settled(read, lambda one: (one.part, one.texts), left_out)
    labels = Labels(examples, len(rows), +left_out)
    if not examples:
        raise InputError(f"nothing to learn in {', '.join(paths)}: {labels.told}; check {setting}")
    return labels


def settled(
    items: Iterable[About[T]], texts: Callable[[About[T]], Hashable], left_out: Counter[str]
) -> list[About[T]]:
    """Of items with the same texts the first, and none where their labels differ; counts what is left out."""
    by_texts: dict[Hashable, list[About[T]]] = defaultdict(list)
    for item in items:
        by_texts[texts(item)].append(item)
    agreed = [same for same in by_texts.values() if len({(one.label, one.texts) for one in same}) == 1]
    left_out["repeated"] += sum(len(same) - 1 for same in agreed)
    contradicted = sum(map(len, by_texts.values())) - sum(map(len, agreed))
    left_out["whose texts have another label elsewhere"] += contradicted
    return [same[0] for same in agreed]


def examples_of(
    rows: Iterable[Row], verdicts: Mapping[str, Sequence[str]], left_out: Counter[str]
) -> list[Labelled]:
    """The examples that rows are; counts those of parts that are not asked for.

    Raises InputError for a row that is not as it must be.
    """
    examples = [_example(row.values, row.where, verdicts) for row in rows]
    left_out["of parts that are not asked for"] += examples.count(None)
    return [example for example in examples if example]


def _example(values: Mapping[str, Any], where: str, verdicts: Mapping[str, Sequence[str]]) -> Labelled | None:
    """The example of a row; None if it is of a part that is not asked for."""
    rewrites = "rewrite" in verdicts
    part = "rewrite" if rewrites else values.get("part")
    known = [name for name in TEXTS if rewrites or name != "rewrite"]
    if part not in known:
        raise InputError(f"{where}: part is {_shown(part)}; the parts are {', '.join(known)}")
    for name in TEXTS[part]:
        if not isinstance(text := values.get(name), str):
            raise InputError(f"{where}: {name} is {_shown(text)}, and must be a text")
        if SURROGATE.search(text):
            raise InputError(f"{where}: {name} holds half of a surrogate pair, which no tokenizer takes")
    texts = tuple(values[name] for name in TEXTS[part])
    if part not in verdicts:
        return None
    if part == "quality" and texts[1] == texts[2]:
        raise InputError(f"{where}: first and second are the same text: leave the line out")
    if rewrites:
        if not isinstance(values.get("safe"), bool):
            raise InputError(f"{where}: safe is {_shown(values.get('safe'))}, and must be true or false")
        if not values["suffix"].strip():
            raise InputError(f"{where}: suffix is empty: there is nothing to copy or to rewrite")
        return Labelled(part, texts, SAFE[values["safe"]], where)
    if values.get("label") not in verdicts[part]:
        listed = ", ".join(verdicts[part])
        raise InputError(f"{where}: label is {_shown(values.get('label'))}; of {part} they are {listed}")
    kind = next((values[name] for name in KINDS if isinstance(values.get(name), str)), "")
    return Labelled(part, texts, values["label"], where, kind)


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


def split_labels(examples: Sequence[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    """Those to learn, and those held out: about that share, by a hash of what belongs together.

    Raises InputError if one side of a share above 0 would be empty.
    """
    keys = sorted({one.key for one in examples}, key=lambda key: hashlib.sha256(key.encode()).digest())
    apart = frozenset(keys[: max(1, min(len(keys) - 1, round(share * len(keys))))] if share else ())
    sides = [one for one in examples if one.key not in apart], [one for one in examples if one.key in apart]
    if not sides[0]:
        raise InputError("all labelled texts share a prefix, so that none can be held out: set held_out to 0")
    return sides


def digest_labels(examples: Sequence[Labelled]) -> str:
    """A short digest of examples in their order, wherever they stand."""
    listed = [[one.part, one.texts, one.label] for one in examples]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
