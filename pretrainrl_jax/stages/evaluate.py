"""`evaluate`: what the base model and each trained system know, and what they forgot."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.evaluation import factual
from pretrainrl_jax.facts.splits import head
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.knowledge.theory import theory
from pretrainrl_jax.mining.fingerprint import TOLERANCE
from pretrainrl_jax.stages import asking
from pretrainrl_jax.stages.calibrate import calibrate
from pretrainrl_jax.stages.context import Context, stage_of
from pretrainrl_jax.stages.statements import count_statements, told_more
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.templates import documents
from pretrainrl_jax.trees.tree import AnswerTree

Json = dict[str, Any]


def measure(context: Context, system: str) -> tuple[Json, str]:
    """Questions, answers, how sure it is of them, loss on text; and a line of that."""
    settings, stage = context.config.evaluate, f"evaluate/{system}"
    loaded = context.load(stage_of(system))
    statements = count_statements(context, loaded.tokenizer)  # first: a file may not be there
    questions = asking.questions_of(context)
    asker = asking.Asker(context, loaded, settings, stage)
    outcomes, prompts = asker.ask_all(questions)
    temperature, calibrated = calibrate(context, loaded, outcomes)
    further = ask_further(context, asker, questions)
    nll = text_nll(context, loaded, context.texts)

    trained, paraphrased = ([o for o in outcomes if o.group == g] for g in ("trained", "paraphrase"))
    pretrain = context.config.pretrain  # a model from elsewhere read what is not ours to know
    ours = pretrain.text == "corpus" and not context.config.model.path
    stated = ours and any(context.corpus.mentions.values())
    groups = factual.groups(
        outcomes,
        unseen=lambda fact: stated and context.corpus.mentions[fact.id] == 0,
        head=head(context.facts),
        neighbour=context.neighbour,
    )
    result: Json = {
        "text_nll": nll,
        "groups": groups,
        "by_popularity": factual.by_popularity(trained, settings.bins),
        "by_popularity_paraphrase": factual.by_popularity(paraphrased, settings.bins),
        "measured_twice": {
            "answers": sum(o.measured_twice for o in outcomes),
            "apart": max((o.apart for o in outcomes), default=0.0),  # nats
            "tolerance": TOLERANCE[context.config.model.dtype],
        },
        "unfinished_beams": sum(o.unfinished for o in outcomes) / max(1, sum(o.beams for o in outcomes)),
        "temperature": temperature,
        "theory": theory(prompts, statements, told_more(context, system)),
        "questions": [
            factual.to_json(outcome) | {"calibrated": confidence} | more
            for outcome, confidence, more in zip(outcomes, calibrated, further, strict=True)
        ],
    }
    if settings.rubric:  # what answers are where the prompt states a penalty, and where it states none
        asked = asking.as_facts(questions)
        own = [o for o in outcomes if o.group in factual.OWN_WORDING]
        stated_by = {f"{p:g}": asker.ask_by_rule(asked, p) for p in settings.rubric}
        result["rubric"] = {"closed": [verdict(o.prediction, o.correct) for o in own], "open": stated_by}
    shares = groups["trained"]
    line = f"ACC {shares['acc']:.1%}, HR@{settings.beams} {shares['hr']:.1%}"
    return result, line + ("" if nll is None else f", text NLL {nll:.3f} nats a token")


def ask_further(context: Context, asker: asking.Asker, questions: Sequence[asking.Question]) -> list[Json]:
    """Of each question what else is known of it, or nothing.

    That is what a held-out fact shares with a trained one; samples, and the choice among known answers.
    """
    settings, asked = context.config.evaluate, asking.as_facts(questions)
    further: dict[asking.Question, Json] = {
        question: {"neighbour": context.neighbour(question[0])} if question[2] == "held_out" else {}
        for question in asked
    }
    if settings.samples:
        for question, drawn in zip(asked, asker.ask_samples(asked), strict=True):
            texts, right = map(list, zip(*drawn, strict=True))
            further[question] |= {"samples": texts, "samples_right": right}
    if settings.among:
        for question, chosen in zip(asked, asker.ask_choices(asked), strict=True):
            names = ("choice", "choice_right", "choice_confidence")
            further[question] |= dict(zip(names, chosen, strict=True))
    return [further.get(question, {}) for question in questions]


def text_nll(context: Context, loaded: Loaded, texts: Sequence[str]) -> float | None:
    """Mean negative log-likelihood of texts, nats a predicted token; None without any."""
    if not texts:
        return None
    return mean_nll(context, loaded, documents(loaded.tokenizer, texts, context.config.pretrain.row_length))


def mean_nll(context: Context, loaded: Loaded, trees: Sequence[AnswerTree]) -> float:
    """The same of texts that are trees."""
    scores = context.score(loaded, trees, context.config.pretrain.row_length)
    predicted = sum(size(tree, question=False).targets for tree in trees)
    return -float(np.sum(scores)) / max(1, predicted)
