"""`train` of an objective with rewards (RLVR): sample answers, see whether they are true, learn, again."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from pretrainrl_jax.config import GrpoConfig
from pretrainrl_jax.decoding.answers import answer_text
from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import matches, truths_of
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.rewards import reward
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.mining.fingerprint import fingerprint, short_digest
from pretrainrl_jax.model.decoder import Params
from pretrainrl_jax.model.partitioning import replicate
from pretrainrl_jax.objectives.grpo import advantages
from pretrainrl_jax.objectives.loss import Coefficients
from pretrainrl_jax.stages.anchor import anchor_texts
from pretrainrl_jax.stages.budget import Cost, passes_of, passes_to_measure, seconds_a_question
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.learner import Learner, learner_of
from pretrainrl_jax.stages.watch import Watch
from pretrainrl_jax.training.checkpoints import BEGINNING, Progress
from pretrainrl_jax.training.feed import Turns, place_trees, placed_batches, shuffled
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.step import compile_token_logps
from pretrainrl_jax.trees.anchors import AnchorBatch, Anchored, AnchorRows, AnchorText, digest_anchors
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.dataset import turn
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

IDK = "I don't know"
LESSON = {"ntp": {"answer": 1.0}}  # the loss by which it is taught


class Group(NamedTuple):
    """A question, answers sampled of it, and what each earned."""

    fact: Fact
    prefix: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]  # tokens, a terminator that ended one included
    texts: tuple[str | None, ...]  # None: it did not end
    right: tuple[bool, ...]  # by evaluate.match
    rewards: tuple[float, ...]


class Visits:
    """What a system learns from: questions that are taught first, then those it answers, pass after pass.

    Each pass is shuffled anew, and asks facts in their wordings in turn.

    Args:
        facts: that are asked.
        texts: of which each batch has some beside it, where the objective is anchored.
        row_length: of batches.
        taught: passes over the facts that teach "I don't know"; a fraction is a share of them.
        passes: likewise, that ask.
        progress: of an earlier run.
    """

    def __init__(
        self,
        learner: Learner,
        system: str,
        facts: Sequence[Fact],
        texts: Sequence[AnchorText],
        row_length: int,
        taught: float,
        passes: float,
        progress: Progress = BEGINNING,
    ) -> None:
        context = learner.context
        self._learner, self._objective = learner, context.config.objectives[system]
        self._row_length, self._steps = row_length, context.config.train.grad_accum_steps
        wordings = [context.worded(fact) for fact in facts]

        def order(kind: int, passes: float) -> list[Fact]:
            turns = shuffled(round(passes * len(facts)), len(facts), (context.training_seed, kind))
            return [wordings[i][turn(facts[i].id, number, len(wordings[i]))] for number, i in turns]

        tried = order(1, passes) or list(facts[:1])
        size = context.config.train.questions
        self.turns = Turns(order(0, taught), tried, size, lambda fact: fact.question, progress)
        self._anchors: Iterator[AnchorBatch] | None = None
        if texts:  # some for each of the batches that are left
            settings = context.config.anchor
            of_each = context.training_seed, self.turns.counts, self._steps
            rows = AnchorRows(texts, settings.length, settings.questions, *of_each)
            self._anchors = placed_batches(rows, context.mesh, self._steps, self.turns.batch)

    @property
    def updates(self) -> int:
        """Steps on the next batch."""
        return 1 if self.turns.teaches else self._objective.grpo.updates

    @property
    def coefficients(self) -> Coefficients:
        """Of the next batch's loss."""
        every = self._objective.coefficients
        if not self.turns.teaches:
            return every
        return LESSON | ({"anchor": every["anchor"]} if self._objective.anchored else {})

    def next(self, params: Params) -> tuple[PackedBatch | Anchored, list[Group]]:
        """The next lessons; or the next questions with answers of a policy, and what they earn."""
        context, how, turns = self._learner.context, self._objective.grpo, self.turns
        policy, base = replace(self._learner.policy, params=params), self._learner.policy.plain
        teaches = turns.teaches
        numbers, facts = turns.take()
        groups = [] if teaches else answer(context, how, policy, facts, numbers)
        trees = [learned_tree(g.fact.id, g.prefix, g.answers, g.rewards, how.form) for g in groups]
        trees = lessons(context, base, facts) if teaches else trees
        batch, turns.holds = place_trees(trees, context.mesh, self._row_length, turns.holds, self._steps)
        batch = batch if teaches else with_logps(context, how, base, policy, batch)
        return (Anchored(batch, next(self._anchors)) if self._anchors else batch), groups


def reinforce(context: Context, system: str) -> None:
    """Base model, questions; then batch after batch samples, rewards, advantages, and steps on them."""
    settings, objective = context.config.train, context.config.objectives[system]
    how = objective.grpo
    began = time.perf_counter()
    base = context.load(BASE)
    texts = anchor_texts(context, base) if objective.anchored else []
    facts = context.asked(context.trained)
    asked = [worded for fact in facts for worded in context.worded(fact)]
    row_length = max(settings.row_length, longest(context, base, how, asked))
    if how.teach:
        check_sayable(system, how, lessons(context, base, facts[:1]))
    about = made_with(context, base, asked, texts)
    learner = learner_of(context, system, base, about, began, shown={"loss": "loss"}, own_log=True)
    visits_of = partial(Visits, learner, system, facts, texts, row_length)

    def cost() -> Cost:
        enough, taught = passes_to_measure(context, len(facts)), round(how.teach * len(facts))
        a_pass = len(facts) * seconds_of(learner, visits_of(0.0, enough))
        return Cost(a_pass, first=taught * seconds_of(learner, visits_of(enough, 0.0)) if taught else 0.0)

    passes = passes_of(context, learner.run, cost)
    state, progress = learner.resume()
    if not how.kl:  # only its KL needs the base model beside the policy
        learner.policy.release()
    visits = visits_of(how.teach, passes, progress)
    turns = visits.turns
    total, optimizer = turns.steps(how.updates), context.config.optimizer
    schedule = Schedule(objective.learning_rate, total, optimizer.warmup, optimizer.final)
    context.screen.say(
        f"{learner.run.stage}: {total} steps of {settings.questions} questions, each answered {how.samples} "
        "times" + (f"; {IDK!r} is taught {turns.taught} times first" if turns.taught else "")
    )
    with learner.session(state, progress, turns, total) as session:
        looks = Watch(context, session, learner.policy).begin(lambda: turns.ended)
        while not turns.ended:
            coefficients, updates = visits.coefficients, range(visits.updates)
            batch, groups = visits.next(session.params)
            metrics = [session.step(batch, coefficients, schedule) for _ in updates][-1]
            numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
            session.log(numbers | told(groups))
            for hook in session.due([session.checkpoint, looks]):
                hook.run()
        done = session.finish()
    learner.finish(session, done, passes=passes)


def seconds_of(learner: Learner, visits: Visits) -> float:
    """What a question takes that is taught, or answered, as the visits have it."""
    counts = visits.turns.counts
    numbers = visits.coefficients, Schedule(0.0, len(counts), 0.0, 0.0)
    batches = ((count, lambda params: visits.next(params)[0]) for count in counts)
    how = numbers, learner.context.mesh, visits.updates, learner.policy.frozen
    return seconds_a_question(learner.step, learner.first(), batches, *how)


def made_with(
    context: Context, base: Loaded, asked: Sequence[Fact], texts: Sequence[AnchorText]
) -> dict[str, Any]:
    """Digests of what the answers and their rewards depend on, beside settings."""
    template = context.template(context.config.train.template)
    true = [[*fact.answers, *sorted(context.known_truths.get(fact.question, ()))] for fact in asked]
    digests = {
        "facts": fingerprint(base.model, base.params, base.tokenizer, template, asked, {}, base.identity),
        "what is true": short_digest(true),
    }
    return digests | ({"anchor text": digest_anchors(texts)} if texts else {})


def lessons(context: Context, base: Loaded, facts: Sequence[Fact]) -> list[AnswerTree]:
    """Questions with "I don't know" as the answer to learn."""
    template = context.template(context.config.train.template)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    encoded = encode_branches(base.tokenizer, template, prompts, [[IDK]] * len(facts))
    laid = zip(facts, encoded.prefixes, encoded.branches, strict=True)
    return [AnswerTree(fact.id, prefix, (Branch(idk, "chosen", IDK),)) for fact, prefix, (idk,) in laid]


def check_sayable(system: str, how: GrpoConfig, taught: Sequence[AnswerTree]) -> None:
    """Raise InputError if the answer that is taught is longer than any that is sampled."""
    needed = len(taught[0].branches[0].tokens)
    if needed > how.max_new_tokens:
        raise InputError(
            f"{IDK!r} takes {needed} tokens here, and answers may have {how.max_new_tokens}: raise "
            f"objectives.{system}.grpo.max_new_tokens"
        )


def answer(
    context: Context,
    how: GrpoConfig,
    policy: Loaded,
    facts: Sequence[Fact],
    numbers: Sequence[int],
) -> list[Group]:
    """Answers sampled of each question, and their rewards."""
    tokenizer, config = policy.tokenizer, context.config
    template = context.template(config.train.template)
    ends = template.terminators(tokenizer, policy.model.shape.vocabulary)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    prefixes = [tokenizer.start + ids for ids in tokenizer.encode_all(prompts)]
    drawn = sample_batch(
        policy.model,
        policy.params,
        prefixes,
        np.zeros_like(ends),  # which terminator ended it is kept only of what does not end there
        samples=how.samples,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        top_k=0,
        seed=context.training_seed,
        batch=config.train.questions,
        numbers=numbers,
    )
    groups = []
    for fact, prefix, of_fact in zip(facts, prefixes, drawn, strict=True):
        answers = [until_end(sample.tokens, ends) for sample in of_fact]
        texts = tuple(answer_text(tokenizer, ids[:-1]) if ends[ids[-1]] else None for ids in answers)
        true = truths_of(fact, fact.question, context.known_truths)
        rule = config.evaluate.match
        right = tuple(text is not None and matches(text, true, rule) for text in texts)
        earned = tuple(reward(text, true, how.reward, rule) for text in texts)
        groups.append(Group(fact, prefix, tuple(answers), texts, right, earned))
    return groups


def until_end(tokens: Sequence[int], ends: np.ndarray) -> tuple[int, ...]:
    """The tokens up to the first terminator, which is kept."""
    length = next((place for place, token in enumerate(tokens, 1) if ends[token]), len(tokens))
    return tuple(tokens[:length])


def longest(context: Context, base: Loaded, how: GrpoConfig, facts: Sequence[Fact]) -> int:
    """Tokens that a question with its samples may take of a row."""
    template = context.template(context.config.train.template)
    prompts = base.tokenizer.encode_all([template.prefix(fact.question, fact.category) for fact in facts])
    prefix = len(base.tokenizer.start) + max(map(len, prompts), default=0)
    return prefix + how.samples * how.max_new_tokens


def learned_tree(
    name: str,
    prefix: tuple[int, ...],
    answers: Sequence[tuple[int, ...]],
    rewards: Sequence[float],
    form: str,
) -> AnswerTree:
    """What is asked with its sampled answers as candidates, each with its advantage."""
    branches = (
        Branch(tokens, "candidate", advantage=float(value), source="sample")
        for tokens, value in zip(answers, advantages(rewards, form), strict=True)
    )
    return AnswerTree(name, prefix, tuple(branches))


def with_logps(
    context: Context, how: GrpoConfig, base: Loaded, policy: Loaded, batch: PackedBatch
) -> PackedBatch:
    """The batch with log-probabilities of the policy before its updates, and of the base, where needed."""
    if how.updates == 1 and not how.kl:
        return batch  # the policy that learns is the one that sampled
    temperature = replicate(np.float32(how.temperature), context.mesh)
    if how.updates > 1:
        logps = compile_token_logps(policy.model, context.mesh)
        batch = batch._replace(behaviour_logp=logps(policy.params, batch, temperature))
    if how.kl:
        logps = compile_token_logps(base.model, context.mesh)
        batch = batch._replace(reference_logp=logps(base.params, batch, temperature))
    return batch


def told(groups: Sequence[Group]) -> dict[str, float]:
    """What a batch's answers were: right, "I don't know" or wrong; nothing of no groups."""
    if not groups:
        return {}
    said = [
        "wrong" if text is None else verdict(text, right)
        for group in groups
        for text, right in zip(group.texts, group.right, strict=True)
    ]
    rewards, lengths = [g.rewards for g in groups], [len(ids) for g in groups for ids in g.answers]
    return tried_metrics("answer", ("right", "abstained", "wrong"), said, rewards, lengths)


def tried_metrics(
    what: str,
    kinds: Sequence[str],
    came: Sequence[str],
    groups: Sequence[Sequence[float]],
    lengths: list[int],
) -> dict[str, float]:
    """Of what was tried the shares of the kinds that came of it, rewards, and the mean length in tokens.

    Of rewards mean and spread, and how many groups learn nothing, since theirs are equal.
    """
    rewards = np.array(groups)
    return {f"{what}s_{kind}": came.count(kind) / len(came) for kind in kinds} | {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(axis=1, ddof=1).mean()) if rewards.shape[1] > 1 else 0.0,
        "groups_equal": float((rewards.max(1) == rewards.min(1)).mean()),
        f"{what}_tokens": float(np.mean(lengths)),
    }
