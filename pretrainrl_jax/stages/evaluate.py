"""`evaluate`: what the base model and each trained system know, and what they forgot."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.decoding.answers import answer_questions, read_answers
from pretrainrl_jax.evaluation import factual
from pretrainrl_jax.evaluation.factual import Outcome, Truth, distinct_truths, judge
from pretrainrl_jax.facts.head import head
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.fingerprint import TOLERANCE, short_digest
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.shards import resumable_map
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.templates import documents, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Question = tuple[Fact, str, str]  # with its wording and its group


def evaluate_system(context: Context, system: str) -> None:
    """Questions, answers, log-probabilities of the truth, loss on text, one file."""
    settings, stage = context.config.evaluate, BASE if system == "base" else f"train/{system}"
    began = time.perf_counter()
    loaded = context.load(stage)
    questions = [(f, f.question, "trained") for f in context.asked(context.trained)]
    questions += [(f, f.paraphrase, "paraphrase") for f in context.asked(context.trained) if f.paraphrase]
    questions += [(f, f.question, "held_out") for f in context.held_out]

    outcomes = ask_all(context, loaded, questions, f"evaluate/{system}")
    nll = text_nll(context, loaded, context.texts)

    trained, paraphrased = ([o for o in outcomes if o.group == g] for g in ("trained", "paraphrase"))
    stated = any(context.corpus.mentions.values())  # else the base model's text is not ours to know
    groups = factual.groups(
        outcomes,
        unseen=lambda fact: stated and context.corpus.mentions[fact.id] == 0,
        head=head(context.facts),
    )
    result = {
        "system": system,
        "device_seconds": context.finished()[stage]["device_seconds"],
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
        "questions": [factual.to_json(o) for o in outcomes],
    }
    path = context.workdir / "evaluations" / f"{system}.json"
    run_on_process_0(lambda: write_text(path, json.dumps(result, ensure_ascii=False)), f"writing {path.name}")
    shares = groups["trained"]
    context.screen.say(
        f"evaluate/{system}: ACC {shares['acc']:.1%}, HR@{settings.beams} {shares['hr']:.1%}"
        + ("" if nll is None else f", text NLL {nll:.3f} nats a token")
    )
    context.finish(f"evaluate/{system}", seconds=time.perf_counter() - began)


def ask_all(context: Context, loaded: Loaded, questions: Sequence[Question], stage: str) -> list[Outcome]:
    """Ask every question: greedily, by beam search, and by teacher forcing of the truth."""
    settings = context.config.evaluate
    template = context.template(settings.template)
    facts, wordings = [fact for fact, _, _ in questions], [wording for _, wording, _ in questions]
    prompts = loaded.tokenizer.encode_all([template.prefix(q, fact.category) for fact, q, _ in questions])
    made_with = context.fingerprint(loaded, settings.template, facts, settings)

    with context.screen.track(stage, 3 * len(questions), "answers") as bar:
        return resumable_map(
            context.parts(stage),
            [made_with, wordings],
            questions,
            [len(prompt) for prompt in prompts],
            context.config.checkpoint.shard_questions,
            lambda part: answers(context, loaded, part, bar.advance),
            lambda asked, answers: outcome(context, asked, answers),
            bar,
            units=3,
            metrics=rates,
            screen=context.screen,
        )


def outcome(context: Context, asked: Question, answers: Mapping[str, Any]) -> Outcome:
    """What the answers to a question are worth."""
    greedy, beams = (read_answers(answers[name]) for name in ("greedy", "beams"))
    truths = [Truth(t["text"], tuple(t["tokens"]), t["logp"]) for t in answers["truths"]]
    return judge(*asked, greedy, beams, truths, context.config.evaluate.match, context.known_truths)


def rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares of questions: greedily right, and right in any beam."""
    hits = [o.rank is not None for o in outcomes]
    return {"ACC": float(np.mean([o.correct for o in outcomes])), "HR": float(np.mean(hits))}


def answers(
    context: Context,
    loaded: Loaded,
    questions: Sequence[Question],
    advance: Callable[[int], None] = lambda n: None,
) -> list[Any]:
    """Of each question its greedy answer, its beams, and the log-probabilities of the truths."""
    settings = context.config.evaluate
    template = context.template(settings.template)
    prompts = [template.prefix(wording, fact.category) for fact, wording, _ in questions]
    greedy, beams = (
        answer_questions(
            loaded.model,
            loaded.params,
            loaded.tokenizer,
            template,
            prompts,
            beams=width,
            max_new_tokens=settings.max_new_tokens,
            batch=settings.batch,
            advance=advance,
        )
        for width in (1, settings.beams)
    )
    truths = [list(distinct_truths(fact)) for fact, _, _ in questions]
    encoded = encode_branches(loaded.tokenizer, template, prompts, truths)
    trees = [
        AnswerTree(fact.id, prefix, tuple(Branch(tokens) for tokens in branches))
        for (fact, _, _), prefix, branches in zip(questions, encoded.prefixes, encoded.branches, strict=True)
    ]
    scores = context.score_answers(loaded, trees, settings.template, context.config.train.row_length, advance)
    return [
        {
            "greedy": list(map(asdict, best)),
            "beams": list(map(asdict, beam)),
            "truths": [
                Truth(text, branch.tokens[:-1], logp)._asdict()
                for text, branch, (_, logp) in zip(own, tree.branches, logps, strict=True)
            ],
        }
        for best, beam, own, tree, logps in zip(greedy, beams, truths, trees, scores, strict=True)
    ]


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
