"""`train` of an objective with rewards (RLVR): sample answers, see whether they are true, learn, again."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from pretrainrl_jax.config import GrpoConfig
from pretrainrl_jax.decoding.answers import answer_text
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import matches, truths_of
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.rewards import reward
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.stages.anchor import anchor_texts
from pretrainrl_jax.stages.budget import Cost, passes_of, passes_to_measure, seconds_a_question
from pretrainrl_jax.stages.context import BASE, Context, Notes
from pretrainrl_jax.stages.learner import Learner, learner_of
from pretrainrl_jax.stages.practice import Practice, Tried
from pretrainrl_jax.stages.watch import watch
from pretrainrl_jax.training.checkpoints import BEGINNING, Progress
from pretrainrl_jax.training.feed import placed_batches
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.turns import Turns, shuffled
from pretrainrl_jax.trees.anchors import AnchorBatch, AnchorRows, AnchorText, digest_anchors
from pretrainrl_jax.trees.dataset import turn
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

IDK = "I don't know"
OUTCOMES = ("right", "abstained", "wrong")  # of an answer


def practice_of(
    learner: Learner,
    system: str,
    facts: Sequence[Fact],
    texts: Sequence[AnchorText],
    row_length: int,
    taught: float,
    passes: float,
    progress: Progress = BEGINNING,
) -> Practice[Fact]:
    """Questions that are taught first, then those that are answered, pass after pass.

    Each pass is shuffled anew, and asks facts in their wordings in turn. `taught` and `passes` are over the
    facts; a fraction is a share of them. Each batch has some anchor text beside it, where there are `texts`.
    """
    context, base, config = learner.context, learner.policy.plain, learner.context.config
    objective, steps = config.objectives[system], config.train.grad_accum_steps
    wordings = [context.worded(fact) for fact in facts]

    def order(kind: int, passes: float) -> list[Fact]:
        turns = shuffled(round(passes * len(facts)), len(facts), (context.training_seed, kind))
        return [wordings[i][turn(facts[i].id, number, len(wordings[i]))] for number, i in turns]

    asked = order(1, passes) or list(facts[:1])
    turns = Turns(order(0, taught), asked, config.train.questions, lambda fact: fact.question, progress)
    anchors: Iterator[AnchorBatch] | None = None
    if texts:  # for each of the batches that are left
        of_each = config.anchor.length, config.anchor.questions, context.training_seed, turns.counts, steps
        anchors = placed_batches(AnchorRows(texts, *of_each), context.mesh, steps, turns.batch)
    return Practice(
        learner,
        turns,
        objective.grpo,
        objective.coefficients,
        row_length,
        steps,
        teach=lambda facts, numbers: lessons(context, base, facts),
        attempt=partial(answer, context, objective.grpo),
        what="answer",
        outcomes=OUTCOMES,
        anchors=anchors,
    )


def reinforce(context: Context, system: str) -> Notes:
    """Base model, questions; then batch after batch samples, rewards, advantages, and steps on them."""
    settings, objective = context.config.train, context.config.objectives[system]
    how, most = objective.grpo, objective.grpo.max_new_tokens
    base = context.load(BASE)
    texts = anchor_texts(context, base) if objective.anchored else []
    facts = context.asked
    asked = [worded for fact in facts for worded in context.worded(fact)]
    row_length = max(settings.row_length, longest(context, base, how, asked))
    if how.teach and (needed := len(lessons(context, base, facts[:1])[0].branches[0].tokens)) > most:
        raise InputError(
            f"{IDK!r} takes {needed} tokens here, and answers may have {most}: raise "
            f"objectives.{system}.grpo.max_new_tokens"
        )
    about = made_with(context, base, asked, texts)
    learner = learner_of(context, system, base, about, shown={"loss": "loss"}, own_log=True)
    with_passes = partial(practice_of, learner, system, facts, texts, row_length)

    def cost() -> Cost:
        enough, taught = passes_to_measure(learner, len(facts)), round(how.teach * len(facts))
        a_pass = len(facts) * seconds_of(with_passes(0.0, enough))
        return Cost(a_pass, first=taught * seconds_of(with_passes(enough, 0.0)) if taught else 0.0)

    passes = passes_of(learner, cost)
    state, progress = learner.resume()
    if not how.kl:  # only its KL needs the base model beside the policy
        learner.policy.release()
    practice = with_passes(how.teach, passes, progress)
    turns = practice.turns
    total, optimizer = turns.steps(how.updates), context.config.optimizer
    schedule = Schedule(objective.learning_rate, total, optimizer.warmup, optimizer.final)
    context.screen.say(
        f"{learner.run.stage}: {total} steps of {settings.questions} questions, each answered {how.samples} "
        "times" + (f"; {IDK!r} is taught {turns.taught} times first" if turns.taught else "")
    )
    with learner.session(state, progress, turns, total) as session:
        looks = watch(context, session, learner.policy, lambda: turns.ended)
        practice.go_on(session, schedule, schedule, [session.checkpoint, looks], shown=-1)
        done = session.finish()
    return learner.finish(session, done) | {"passes": passes}


def seconds_of(practice: Practice[Fact]) -> float:
    """What a question takes that is taught, or answered, whichever begins."""
    counts = practice.turns.counts
    numbers = practice.coefficients, Schedule(0.0, len(counts), 0.0, 0.0)
    batches = ((count, lambda params: practice.next(params)[0]) for count in counts)
    return seconds_a_question(practice.learner, batches, numbers, practice.updates)


def made_with(
    context: Context, base: Loaded, asked: Sequence[Fact], texts: Sequence[AnchorText]
) -> dict[str, Any]:
    """Digests of what the answers and their rewards depend on, beside settings."""
    true = [[*fact.answers, *sorted(context.known_truths.get(fact.question, ()))] for fact in asked]
    digests = {"facts": context.fingerprint(base, context.config.train.template, asked)}
    digests |= {"what is true": short_digest(true)}
    return digests | ({"anchor text": digest_anchors(texts)} if texts else {})


def lessons(context: Context, base: Loaded, facts: Sequence[Fact]) -> list[AnswerTree]:
    """Questions with "I don't know" as the answer to learn."""
    template = context.template(context.config.train.template)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    encoded = encode_branches(base.tokenizer, template, prompts, [[IDK]] * len(facts))
    laid = zip(facts, encoded.prefixes, encoded.branches, strict=True)
    return [AnswerTree(fact.id, prefix, (Branch(idk, "chosen", IDK),)) for fact, prefix, (idk,) in laid]


def answer(
    context: Context, how: GrpoConfig, policy: Loaded, facts: Sequence[Fact], numbers: Sequence[int]
) -> list[Tried]:
    """Answers sampled of each question, and their rewards."""
    tokenizer, config = policy.tokenizer, context.config
    template, rule = context.template(config.train.template), config.evaluate.match
    ends = template.terminators(tokenizer, policy.model.shape.vocabulary)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    prefixes = [tokenizer.start + ids for ids in tokenizer.encode_all(prompts)]
    drawn = policy.rollouts(
        prefixes,
        np.flatnonzero(ends).tolist(),
        samples=how.samples,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        seed=context.training_seed,
        batch=config.train.questions,
        numbers=numbers,
    )
    tried = []
    for fact, prefix, of_fact in zip(facts, prefixes, drawn, strict=True):
        answers = [sample.tokens for sample in of_fact]
        texts = [answer_text(tokenizer, ids[:-1]) if ends[ids[-1]] else None for ids in answers]
        true = truths_of(fact, fact.question, context.known_truths)
        earned = [reward(text, true, how.reward, rule) for text in texts]
        outcomes = ["wrong" if text is None else verdict(text, matches(text, true, rule)) for text in texts]
        tried.append(Tried(fact.id, prefix, answers, earned, outcomes))
    return tried


def longest(context: Context, base: Loaded, how: GrpoConfig, facts: Sequence[Fact]) -> int:
    """Tokens that a question with its samples may take of a row."""
    template = context.template(context.config.train.template)
    prompts = base.tokenizer.encode_all([template.prefix(fact.question, fact.category) for fact in facts])
    prefix = len(base.tokenizer.start) + max(map(len, prompts), default=0)
    return prefix + how.samples * how.max_new_tokens
