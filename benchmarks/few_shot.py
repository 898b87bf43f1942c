"""Questions of a file of facts behind three examples, drawn by hash: what several programs here ask."""

from typing import NamedTuple

from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.trees.templates import Template, choose_examples


class Asked(NamedTuple):
    """Some questions, and how they are put."""

    every: list[Fact]  # of the file
    facts: list[Fact]  # that are asked about, none of them an example
    template: Template
    prompts: list[str]


def few_shot(path: str, questions: int) -> Asked:
    """So many questions of a file."""
    every = read_facts(Config(facts=FactsConfig(path=path))).facts
    shown = choose_examples(every, outside=True)
    examples = tuple((fact.question, fact.answer) for fact in shown)
    template = Template("few_shot", examples, tuple(fact.category for fact in shown))
    facts = subsample([fact for fact in every if fact not in shown], questions, 0)
    return Asked(every, facts, template, [template.prefix(fact.question, fact.category) for fact in facts])
