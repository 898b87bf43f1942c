"""Which token sequences begin alike, so far that what they begin with is better read once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

SHORTEST = 32  # tokens: what a shorter beginning saves is lost in padding
PAYS = 512  # tokens that a beginning must spare more than the shorter ones of others, to be read apart
MOST = 8192  # tokens of all beginnings, padded: they lie in memory together


class Shared(NamedTuple):
    """What sequences begin with."""

    beginnings: list[tuple[int, ...]]
    of: list[int]  # of each sequence, its place among them; -1 where it shares none

    def length(self, index: int) -> int:
        """Tokens of a sequence that are read with its beginning."""
        return len(self.beginnings[self.of[index]]) if self.of[index] >= 0 else 0


@dataclass
class _Run:
    """Neighbours among sorted sequences."""

    low: int
    high: int
    length: int  # tokens that all begin with, a last one of each left
    parts: list["_Run"] = field(default_factory=list)  # where neighbours have more in common than all have

    @property
    def spared(self) -> int:
        """Tokens that need not be read if all of them share one beginning."""
        return (self.high - self.low - 1) * self.length if self.length >= SHORTEST else 0


def find_shared(sequences: Sequence[Sequence[int]]) -> Shared:
    """The beginnings of token sequences that spare the most.

    Each has `SHORTEST` tokens or more. A longer one of fewer sequences is taken for a shorter one of more
    only where that spares `PAYS` more; and where that would take more room than there is (`MOST`), either
    some of them or shorter ones of more, whichever spares more. Every sequence keeps a last token of its
    own, which predicts what follows.
    """
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    ranked = [sequences[i] for i in order]
    runs = _runs(ranked)
    best: list[_Run] = []
    pays = PAYS
    while found := _spare_most(runs, pays):
        kept = _fitting(found)
        best = max(best, kept, key=lambda some: sum(run.spared for run in some))
        if len(kept) == len(found):
            break  # what pays more spares less
        pays *= 2
    shared = Shared([], [-1] * len(sequences))
    for run in best:
        for index in order[run.low : run.high]:
            shared.of[index] = len(shared.beginnings)
        shared.beginnings.append(tuple(ranked[run.low][: run.length]))
    return shared


def few_sizes(length: int, least: int) -> int:
    """The first of `least` times 1, 1.5, 2, 3, 4, 6, … that holds a length: few compilations."""
    power = max(least, 1 << (length - 1).bit_length())
    return power * 3 // 4 if least < power and length <= power * 3 // 4 else power


def _runs(ranked: Sequence[Sequence[int]]) -> list[_Run]:
    """All sequences as a run, then the parts of each: neighbours that have more in common than it has."""
    lengths = np.array([len(sequence) - 1 for sequence in ranked], int)
    common = np.array([_common(*two) for two in pairwise(ranked)], int)
    runs = [_Run(0, len(ranked), int(lengths.min()))] if ranked else []
    for run in runs:  # which grows
        if run.high - run.low > 1:
            inner = common[run.low : run.high - 1]
            run.length = min(run.length, int(inner.min()))
            cuts = run.low + 1 + np.flatnonzero(inner == inner.min())
            parts = pairwise([run.low, *cuts.tolist(), run.high])
            run.parts = [_Run(*part, int(lengths[slice(*part)].min())) for part in parts]
            runs += run.parts
    return runs


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _spare_most(runs: Sequence[_Run], pays: int) -> list[_Run]:
    """Of the runs some that have no sequence in common: those that spare the most, each less `pays`."""
    best: dict[int, tuple[int, list[_Run]]] = {}  # by a run's place: what is spared within it, and how
    for run in reversed(runs):  # parts come after what they are parts of
        within = [best[id(part)] for part in run.parts]
        apart = sum(spared for spared, _ in within)
        whole = run.spared - pays
        taken = [one for _, some in within for one in some] if apart >= whole else [run]
        best[id(run)] = (max(apart, whole), taken) if max(apart, whole) > 0 else (0, [])
    return best[id(runs[0])][1] if runs else []


def _fitting(runs: Sequence[_Run]) -> list[_Run]:
    """Those that spare the most, as many as there is room for."""
    kept, room = [], MOST
    for run in sorted(runs, key=lambda run: (-run.spared, run.low)):
        if (size := few_sizes(run.length, SHORTEST)) <= room:
            kept.append(run)
            room -= size
    return kept
