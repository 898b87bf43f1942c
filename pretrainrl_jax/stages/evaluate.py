"""`evaluate`: what the base model and each trained system know, and what they forgot."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.evaluation import factual
from pretrainrl_jax.evaluation.factual import Outcome
from pretrainrl_jax.facts.splits import head
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.knowledge.theory import theory
from pretrainrl_jax.mining.fingerprint import TOLERANCE, short_digest
from pretrainrl_jax.stages.asking import (
    Question,
    as_facts,
    ask_all,
    ask_by_rule,
    ask_choices,
    ask_samples,
    questions_of,
)
from pretrainrl_jax.stages.calibrate import calibrate
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.statements import count_statements, told_more
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.templates import documents
from pretrainrl_jax.trees.tree import AnswerTree

Json = dict[str, Any]


def evaluate_system(context: Context, system: str) -> None:
    """Questions, answers, how sure it is of them, loss on text, one file."""
    settings, stage = context.config.evaluate, BASE if system == "base" else f"train/{system}"
    began = time.perf_counter()
    loaded = context.load(stage)
    statements = count_statements(context, loaded.tokenizer)  # first: a file may not be there
    questions = questions_of(context)
    if context.config.model_alone:  # what is asked is not all that the user gave
        shown, apart = len(context.few_shot_examples), len(context.held_out)
        context.screen.say(
            f"evaluate/{system}: of {len(context.facts)} facts {shown} are shown in every prompt as examples "
            f"and not asked, {apart} are held out and told apart (facts.holdout_every)"
        )
    outcomes, prompts = ask_all(context, loaded, questions, f"evaluate/{system}")
    temperature, calibrated = calibrate(context, loaded, outcomes)
    further = ask_further(context, loaded, questions, f"evaluate/{system}")
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
    result = {
        "system": system,
        "device_seconds": context.finished().get(stage, {}).get("device_seconds"),
        "text_nll": nll,
        "texts": short_digest(list(context.texts)),
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
        **rubric(context, loaded, questions, outcomes, f"evaluate/{system}"),
        "theory": theory(prompts, statements, told_more(context, system)),
        "questions": [
            factual.to_json(outcome) | {"calibrated": confidence} | near(context, question) | more
            for outcome, confidence, question, more in zip(
                outcomes, calibrated, questions, further, strict=True
            )
        ],
    }
    path = context.workdir / "evaluations" / f"{system}.json"
    run_on_process_0(lambda: write_text(path, json.dumps(result, ensure_ascii=False)), f"writing {path.name}")
    shares = groups["trained"]
    context.screen.say(
        f"evaluate/{system}: ACC {shares['acc']:.1%}, HR@{settings.beams} {shares['hr']:.1%}"
        + ("" if nll is None else f", text NLL {nll:.3f} nats a token")
    )
    context.finish(f"evaluate/{system}", seconds=time.perf_counter() - began)


def near(context: Context, question: Question) -> Json:
    """What a held-out fact shares with a trained one; {} of other questions."""
    fact, _, group = question
    return {"neighbour": context.neighbour(fact)} if group == "held_out" else {}


def ask_further(context: Context, loaded: Loaded, questions: Sequence[Question], stage: str) -> list[Json]:
    """Of each question what else was asked of it: samples, and the choice among known answers; or nothing."""
    settings, asked = context.config.evaluate, as_facts(questions)
    further: dict[Question, Json] = {question: {} for question in asked}
    if settings.samples:
        for question, drawn in zip(asked, ask_samples(context, loaded, asked, stage), strict=True):
            texts, right = map(list, zip(*drawn, strict=True))
            further[question] |= {"samples": texts, "samples_right": right}
    if settings.among:
        for question, chosen in zip(asked, ask_choices(context, loaded, asked, stage), strict=True):
            names = ("choice", "choice_right", "choice_confidence")
            further[question] |= dict(zip(names, chosen, strict=True))
    return [further.get(question, {}) for question in questions]


def rubric(
    context: Context,
    loaded: Loaded,
    questions: Sequence[Question],
    outcomes: Sequence[Outcome],
    stage: str,
) -> Json:
    """What answers are where the prompt states a penalty, and where it states none; {} without penalties."""
    if not (penalties := context.config.evaluate.rubric):
        return {}
    asked = as_facts(questions)
    by_question = dict(zip(questions, outcomes, strict=True))
    closed = [verdict(by_question[q].prediction, by_question[q].correct) for q in asked]
    stated = {f"{p:g}": ask_by_rule(context, loaded, asked, p, stage) for p in penalties}
    return {"rubric": {"closed": closed, "open": stated}}


def text_nll(context: Context, loaded: Loaded, texts: Sequence[str]) -> float | None:
    """Mean negative log-likelihood of texts, nats a predicted token; None without any."""
    if not texts:
        return None
    return mean_nll(context, loaded, documents(loaded.tokenizer, texts, context.config.pretrain.row_length))


def mean_nll(context: Context, loaded: Loaded, trees: Sequence[AnswerTree]) -> float:
    """The same of texts that are trees."""
    length = context.config.pretrain.row_length
    scores = context.score(loaded, trees, length)
    predicted = sum(size(tree, question=False).targets for tree in trees)
    return -float(np.sum(scores)) / max(1, predicted)
