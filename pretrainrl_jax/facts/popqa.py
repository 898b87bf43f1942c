"""PopQA (Mallen et al., 2023), as its authors publish it: one tab-separated file.

Its columns are among the usual names (facts/columns.py), so it needs no reader of its own, and a copy of it
in another form, as hf:akariasai/PopQA, is read as well. Two things of it are particular: `possible_answers`
is a JSON list written as text, and public copies hold some ids twice.
"""

from pathlib import Path

from pretrainrl_jax.config import Config, Facts
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.record import Fact


def read_popqa(path: str | Path) -> list[Fact]:
    """The facts of a PopQA file, one for each row, in its order.

    Raises:
        InputError: for a file that cannot be read, lacks a column, is malformed, or has no facts.
    """
    return read_facts(Config(facts=Facts(path=str(path), format="tsv", duplicates="keep"))).facts
