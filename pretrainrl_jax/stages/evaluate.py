"""`evaluate`: what the base model and each trained system know, and what they forgot."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pretrainrl_jax.documents.packing import Blocks
from pretrainrl_jax.documents.stream import Document, Stream
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation import factual
from pretrainrl_jax.facts.corpus import shares
from pretrainrl_jax.facts.splits import hashed, head
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.knowledge.confidence import log_loss
from pretrainrl_jax.knowledge.singletons import Counter, Counts, drawn_by, of_mentions
from pretrainrl_jax.knowledge.theory import theory
from pretrainrl_jax.mining.fingerprint import TOLERANCE, short_digest
from pretrainrl_jax.stages import asking
from pretrainrl_jax.stages.context import Context, keep_json, kept_json, stage_of
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.templates import documents
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Json = dict[str, Any]
FEWEST, MOST = 30, 500  # held-out questions that a temperature is fitted on
RANGE = (0.1, 10.0)  # temperatures looked at
GRID, ROUNDS = 9, 3  # in equal ratios, at a time: the last are 4 % apart
STATEMENTS = "statements.json"  # counts of a stream
TOGETHER = 256  # documents in which statements are looked for at a time


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


def calibrate(
    context: Context, loaded: Loaded, outcomes: Sequence[factual.Outcome]
) -> tuple[Json, list[float | None]]:
    """The temperature with the least log loss of "right" on held-out facts, and confidences by it.

    It divides every logit (Guo et al., arXiv 1706.04599, fit a classifier's so). The answers stay those that
    were decoded at temperature 1: nothing but how probable they are is computed again.

    Returns:
        {"value", "fitted_on": questions, "log_loss": [before, after]}, or {"reason"} why there is none; and
        of each outcome of `OWN_WORDING` its best answer's confidence at that temperature, None without one.
    """
    held_out = (o for o in outcomes if o.group == "held_out")
    fitted = sorted(held_out, key=lambda o: hashed(o.question))[:MOST]
    right = np.array([o.best.right for o in fitted], bool)
    if len(fitted) < FEWEST:
        why = f"{len(fitted)} facts are held out, fewer than {FEWEST} (facts.holdout_every)"
        return {"reason": why}, [None] * len(outcomes)
    if right.all() or not right.any():
        why = f"all answers to the {len(fitted)} held-out facts are {'right' if right.all() else 'wrong'}"
        return {"reason": why}, [None] * len(outcomes)

    before = log_loss(np.array([o.best.confidence for o in fitted]), right)
    temperature, after, (low, high) = 1.0, before, RANGE
    for _ in range(ROUNDS):  # each looks closer at the neighbourhood of the best so far
        grid = np.geomspace(low, high, GRID)
        losses = [log_loss(column, right) for column in confidences(context, loaded, fitted, grid.tolist()).T]
        at = int(np.argmin(losses))
        temperature, after = min((temperature, after), (float(grid[at]), losses[at]), key=lambda two: two[1])
        low, high = grid[max(0, at - 1)], grid[min(GRID - 1, at + 1)]
    described = {"value": temperature, "fitted_on": len(fitted), "log_loss": [before, after]}
    told = [o for o in outcomes if o.group in factual.OWN_WORDING]
    scaled = iter(confidences(context, loaded, told, [temperature])[:, 0].tolist())
    return described, [next(scaled) if o.group in factual.OWN_WORDING else None for o in outcomes]


def confidences(
    context: Context, loaded: Loaded, outcomes: Sequence[factual.Outcome], temperatures: Sequence[float]
) -> np.ndarray:
    """The probability of each outcome's best answer, all its spellings together, where logits are divided.

    float64 [outcomes, temperatures].
    """
    settings = context.config.evaluate
    template, tokenizer = context.template(settings.template), loaded.tokenizer
    end = (template.terminator(tokenizer),)
    prompts = [template.prefix(o.question, o.fact.category) for o in outcomes]
    trees = [
        AnswerTree(
            outcome.fact.id,
            tokenizer.start + prompt,
            tuple(Branch(spelling + end) for spelling in outcome.best.spellings),
        )
        for outcome, prompt in zip(outcomes, tokenizer.encode_all(prompts), strict=True)
    ]
    asked = [tree for tree in trees if tree.branches]
    scores = context.score_answers(loaded, asked, settings.template, temperatures=temperatures)
    masses = iter(np.exp(np.array(of_tree)).sum(0) for of_tree in scores)
    nothing = np.zeros(len(temperatures))
    return np.minimum(1.0, [next(masses) if tree.branches else nothing for tree in trees])


def count_statements(context: Context, tokenizer: Tokenizer) -> Counts | None:
    """Statements of the run's facts in the text that its base model learned from; None where nobody knows it.

    It is what evaluate.statements names, else what pretraining read: the training part of the corpus, or one
    pass over the documents, as far as `pretrain.steps` of the base model's `tokenizer` go. A stream is read
    once: what was counted is kept in the workdir.

    Raises InputError for files that cannot be read.
    """
    config, facts = context.config, context.facts
    if named := config.evaluate.statements:
        settings = replace(config.documents, path=named, weights=(), shuffle=0, epochs=1)
        try:
            return counted(context, Stream(settings, config.seed), "files")
        except InputError as error:
            raise InputError(str(error).replace("documents.path", "evaluate.statements")) from None
    if not config.pretrain.epochs:
        return None
    if config.pretrain.text == "documents":
        stream = context.stream(replace(config.documents, epochs=1))
        counts = counted(context, stream, "documents", records_read(context, tokenizer))
        return counts if config.documents.path else drawn_by(counts, facts, shares(facts, config.corpus))
    counts = of_mentions(facts, context.corpus.mentions, context.corpus.training)
    if config.pretrain.epochs < 1:
        part = f"Pretraining read {config.pretrain.epochs:.0%} of the sentences that were counted."
        counts = replace(counts, notes=(part,))
    return drawn_by(counts, facts, shares(facts, config.corpus))


def told_more(context: Context, system: str) -> bool:
    """Whether a system has learned from other text than what is counted."""
    config = context.config
    return system != "base" or bool(config.model.path and not config.evaluate.statements)


def records_read(context: Context, tokenizer: Tokenizer) -> int | None:
    """How many records of the stream pretraining has read; None for all."""
    settings, batches = context.config.pretrain, 0
    if not settings.steps:
        return None
    stream = context.stream()
    blocks = Blocks(stream, tokenizer, settings.row_length, settings.rows, context.config.seed)
    while batches < settings.steps and (block := blocks.next()):
        batches += block.batches
    return stream.state["number"]


def counted(context: Context, stream: Stream, source: str, limit: int | None = None) -> Counts:
    """The counts of a stream to its end, or of its first `limit` records; as kept, where they are these."""
    facts, path = context.facts, context.workdir / STATEMENTS
    told = [[f.id, f.question, f.paraphrase, f.answers, f.category, f.subject] for f in facts]
    made_with = short_digest([source, stream.identity, limit, asdict(context.config.documents), told])

    before = kept_json(path)
    if isinstance(before, dict) and before.get("made_with") == made_with:
        return Counts(source, *before["counts"])
    counter = Counter(facts)

    def work(documents: Sequence[Document]) -> list[tuple[Any, str]]:
        return [([len(document.text), *counter.find(document.text)], "") for document in documents]

    context.screen.say(f"evaluate: counts statements in {source} ({STATEMENTS} keeps them)")
    number = 0
    while not stream.ended and (limit is None or number < limit):
        for made in stream.make(TOGETHER if limit is None else min(TOGETHER, limit - number), work):
            counter.add(*made.value)
        number = stream.state["number"]
    counts = counter.counts(source)
    found = counts.occurrences, counts.texts, counts.characters, counts.false, counts.unknown
    keep_json(path, {"made_with": made_with, "counts": found})
    return counts
