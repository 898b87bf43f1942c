"""The statements of facts in texts, counted in one pass."""

from collections.abc import Iterable, Sequence

from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.knowledge.singletons import Counter, Counts


def of_texts(facts: Sequence[Fact], texts: Iterable[str], source: str = "files") -> Counts:
    """The counts of any texts."""
    counter = Counter(facts)
    for text in texts:
        counter.add(len(text), *counter.find(text))
    return counter.counts(source)
