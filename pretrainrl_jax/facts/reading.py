"""All facts a configuration asks for: read from its source, cleaned, merged, and a part of them kept."""

from collections import Counter
from dataclasses import dataclass, field

from pretrainrl_jax.config import Config
from pretrainrl_jax.facts.corpus import subsample
from pretrainrl_jax.facts.popqa import read_popqa
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.world import make_world


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that became no fact."""

    where: str  # "popQA.tsv, line 17"
    rule: str  # why, a short name that is counted
    text: str  # what stands there, shortened


@dataclass(frozen=True)
class Reading:
    """What was read."""

    facts: list[Fact]
    dropped: list[Dropped] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)  # texts that were changed, by rule


def read_facts(config: Config) -> Reading:
    """The facts a configuration asks for: a file or data set, or the synthetic world.

    Raises:
        InputError: for a source that cannot be read, or one without facts.
    """
    facts = read_popqa(config.facts.path) if config.facts.path else make_world(config.world, config.seed)
    return Reading(subsample(facts, config.facts.limit, config.seed))
