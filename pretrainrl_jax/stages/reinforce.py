"""`train` of an objective with rewards (RLVR): sample answers, see whether they are true, learn, again."""

import bisect
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from pretrainrl_jax.config import GrpoConfig
from pretrainrl_jax.decoding.answers import answer_text
from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import truths_of
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.rewards import reward
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.model.decoder import Params
from pretrainrl_jax.model.partitioning import replicate
from pretrainrl_jax.objectives.grpo import advantages
from pretrainrl_jax.stages.anchor import anchor_texts
from pretrainrl_jax.stages.budget import passes_of, passes_to_measure, seconds_a_question
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.depends import settings_of
from pretrainrl_jax.stages.watch import Watch
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.feed import Holds, place_trees, placed_batches
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Hook, Run, Session, resume
from pretrainrl_jax.training.step import (
    TrainState,
    compile_step,
    compile_token_logps,
    init_sharded_state,
)
from pretrainrl_jax.trees.anchors import AnchorBatch, Anchored, AnchorText, anchor_rows, digest_anchors
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.packing import Capacity
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
    rewards: tuple[float, ...]


def reinforce(context: Context, system: str) -> None:
    """Base model, questions; then batch after batch samples, rewards, advantages, and steps on them."""
    config, settings, objective = context.config, context.config.train, context.config.objectives[system]
    how = objective.grpo
    began = time.perf_counter()
    base = context.load(BASE)
    texts = anchor_texts(context, base) if objective.anchored else []
    facts = context.asked(context.trained)
    every_wording = [asked for fact in facts for asked in fact.worded(settings.wordings)]
    row_length = max(settings.row_length, longest(context, base, how, every_wording))
    if how.teach:
        check_sayable(system, how, lessons(context, base, facts[:1]))
    data = {"facts": context.fingerprint(base, settings.template, facts, settings)}
    if settings.wordings > 1:
        data["wordings"] = short_digest([asked.question for asked in every_wording])
    data |= {"anchor text": digest_anchors(texts)} if texts else {}

    run = Run(
        context.workdir,
        f"train/{system}",
        config.checkpoint,
        skip_nonfinite=config.optimizer.nonfinite == "skip",
        about=settings_of(config, f"train/{system}") | data,
        rate=f"objectives.{system}.learning_rate",
        shown={"loss": "loss"},
        scored=config.evaluate.choose != "last",
        screen=context.screen,
        command=context.command,
        profile=config.profile_steps,
        own_log=True,
    )
    checkpoints.describe(
        run.folder, base.model, base.tokenizer, context.template(settings.template), base.origin
    )
    step = compile_step(
        base.model, config.optimizer, settings.ntp_scale, context.mesh, settings.dpo_scale, how.form
    )

    def begin() -> TrainState:
        return init_sharded_state(base.model, base.params, config.optimizer, context.mesh)

    def lay(visits: Visits, trees: Sequence[AnswerTree]) -> PackedBatch:
        batch, visits.holds = place_trees(
            trees, context.mesh, row_length, visits.holds, settings.grad_accum_steps
        )
        return batch

    def seconds_of_a_pass() -> float:
        enough = passes_to_measure(context, len(facts))
        visits = Visits(facts, config.seed, 0.0, enough, settings.questions, {}, settings.wordings)
        anchors = anchors_beside(context, texts, visits)
        numbers = objective.coefficients, Schedule(0.0, len(visits.counts), 0.0, 0.0)

        def make(params: Params) -> PackedBatch | Anchored:
            policy = replace(base, params=params)
            asked, of_batch = visits.take()
            trees = [learned_tree(how, group) for group in answer(context, how, policy, of_batch, asked)]
            batch = with_logps(context, how, base, policy, lay(visits, trees))
            return Anchored(batch, next(anchors)) if anchors else batch

        batches = ((count, make) for count in visits.counts)
        took = seconds_a_question(step, begin(), batches, numbers, context.mesh, how.updates)
        return len(facts) * took

    passes = passes_of(context, run, seconds_of_a_pass)
    state, progress = resume(run, begin())
    if not how.kl:  # only its KL needs the base model beside the policy
        jax.tree.map(lambda x: x.delete(), base.params)

    visits = Visits(
        facts, config.seed, how.teach, passes, settings.questions, progress.stream, settings.wordings
    )
    visits.row = progress.row
    total = visits.steps(how.updates)
    schedule = Schedule(objective.learning_rate, total, config.optimizer.warmup, config.optimizer.final)
    context.screen.say(
        f"{run.stage}: {total} steps of {settings.questions} questions, each answered {how.samples} times"
        + (f"; {IDK!r} is taught {visits.taught} times first" if visits.taught else "")
    )
    anchors = anchors_beside(context, texts, visits)
    anchored = {"anchor": objective.coefficients["anchor"]} if objective.anchored else {}

    with Session(run, step, state, progress, visits, context.mesh, total) as session:
        watch = Watch(context, session, base)
        hooks = [session.checkpoint, Hook(watch.look, every_steps=config.evaluate.every_steps)]
        watch.begin()
        while not visits.ended:
            policy, teaches = replace(base, params=session.state.params), visits.teaches
            numbers, asked = visits.take()
            groups = [] if teaches else answer(context, how, policy, asked, numbers)
            trees = lessons(context, base, asked) if teaches else [learned_tree(how, g) for g in groups]
            batch = lay(visits, trees)
            batch = batch if teaches else with_logps(context, how, base, policy, batch)
            batch = Anchored(batch, next(anchors)) if anchors else batch
            coefficients = LESSON | anchored if teaches else objective.coefficients
            updates = range(1 if teaches else how.updates)
            metrics = [session.step(batch, coefficients, schedule) for _ in updates][-1]
            numbers_of = {name: float(value) for name, value in jax.device_get(metrics).items()}
            session.log(numbers_of | ({} if teaches else told(groups)))
            for hook in session.due(hooks):
                hook.run()
        done = session.finish()
    context.finish(
        run.stage,
        device_seconds=done.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=session.global_step,
        passes=passes,
        skipped=done.skipped,
    )
    jax.tree.map(lambda x: x.delete(), session.state)


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


def anchors_beside(
    context: Context, texts: Sequence[AnchorText], visits: "Visits"
) -> Iterator[AnchorBatch] | None:
    """Anchor text for each of the batches that are left, on the devices."""
    settings, steps = context.config.anchor, context.config.train.grad_accum_steps
    if not texts:
        return None
    how_much = settings.length, settings.questions
    rows = anchor_rows(texts, *how_much, context.config.seed, visits.counts, steps)
    return placed_batches(rows, context.mesh, steps, visits.batch)


class Visits:
    """The questions in the order they are asked: those that are taught first, then pass after pass.

    Each pass is shuffled anew. `row` is the number of questions that were asked or taught.

    Args:
        facts: that are asked.
        seed: of the order.
        taught: passes over them that teach "I don't know"; a fraction is a share of them.
        passes: likewise, that ask.
        size: of a batch.
        state: what an earlier run had saved; empty at the beginning.
        wordings: of each question, which passes ask in turn.
    """

    def __init__(
        self,
        facts: Sequence[Fact],
        seed: int,
        taught: float,
        passes: float,
        size: int,
        state: dict[str, Any],
        wordings: int = 1,
    ) -> None:
        worded = [fact.worded(wordings) for fact in facts]

        def order(kind: int, passes: float) -> list[Fact]:
            every: list[Fact] = []
            for number in range(math.ceil(passes)):
                shuffled = np.random.default_rng([seed, kind, number]).permutation(len(facts))
                every += [worded[i][(i + number) % len(worded[i])] for i in shuffled]
            return every[: round(passes * len(facts))]

        lessons, asked = order(0, taught), order(1, passes) or list(facts[:1])
        self._order = [*lessons, *asked]
        self._starts = [*range(0, len(lessons), size), *range(len(lessons), len(self._order), size)]
        self.taught, self.row = len(lessons), 0
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        self.holds = Holds(rows, Capacity(*sizes))

    @property
    def counts(self) -> list[int]:
        """Questions of each batch."""
        return [int(n) for n in np.diff([*self._starts, len(self._order)])]

    @property
    def batch(self) -> int:
        """The number of the next batch."""
        return bisect.bisect_left(self._starts, self.row)

    def steps(self, updates: int) -> int:
        """Of all batches together, with so many on each whose answers are sampled."""
        taught = bisect.bisect_left(self._starts, self.taught)
        return taught + updates * (len(self._starts) - taught)

    @property
    def teaches(self) -> bool:
        """Whether the next batch is taught."""
        return self.row < self.taught

    @property
    def ended(self) -> bool:
        """Whether no question is left."""
        return self.row >= len(self._order)

    @property
    def state(self) -> dict[str, Any]:
        """What of its position the row does not tell: the sizes that batches are compiled for."""
        return {"holds": [self.holds.rows, *self.holds.capacity]}

    def take(self) -> tuple[range, list[Fact]]:
        """The next batch's questions, and the numbers of these visits."""
        numbers = range(self.row, self.row + self.counts[self.batch])
        self.row = numbers.stop
        return numbers, [self._order[n] for n in numbers]

    def names(self, row: int) -> list[str]:
        """What the batch that ended before `row` asks."""
        start = self._starts[bisect.bisect_left(self._starts, row) - 1]
        return list(dict.fromkeys(fact.question for fact in self._order[start:row]))


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
        seed=config.seed,
        batch=config.train.questions,
        numbers=numbers,
    )
    groups = []
    for fact, prefix, of_fact in zip(facts, prefixes, drawn, strict=True):
        answers = [until_end(sample.tokens, ends) for sample in of_fact]
        texts = tuple(answer_text(tokenizer, ids[:-1]) if ends[ids[-1]] else None for ids in answers)
        true = truths_of(fact, fact.question, context.known_truths)
        earned = tuple(reward(text, true, how.reward, config.evaluate.match) for text in texts)
        groups.append(Group(fact, prefix, tuple(answers), texts, earned))
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


def learned_tree(how: GrpoConfig, group: Group) -> AnswerTree:
    """A question with its sampled answers as candidates, each with its advantage."""
    gained = advantages(group.rewards, how.form)
    branches = (
        Branch(tokens, "candidate", text or "", advantage=float(value), source="sample")
        for tokens, text, value in zip(group.answers, group.texts, gained, strict=True)
    )
    return AnswerTree(group.fact.id, group.prefix, tuple(branches))


def with_logps(
    context: Context, how: GrpoConfig, base: Loaded, policy: Loaded, batch: PackedBatch
) -> PackedBatch:
    """The batch with log-probabilities of the policy before its updates, and of the base, where needed."""
    if how.updates == 1 and not how.kl:
        return batch  # the policy that learns is the one that sampled
    logps = compile_token_logps(base.model, context.mesh)
    temperature = replicate(np.float32(how.temperature), context.mesh)
    if how.updates > 1:
        batch = batch._replace(behaviour_logp=logps(policy.params, batch, temperature))
    if how.kl:
        batch = batch._replace(reference_logp=logps(base.params, batch, temperature))
    return batch


def told(groups: Sequence[Group]) -> dict[str, float]:
    """What a batch's answers were: rewards, shares of right ones, of "I don't know" and of wrong ones."""
    rewards = np.array([group.rewards for group in groups])
    said = [
        "wrong" if text is None else verdict(text, earned == 1)
        for group in groups
        for text, earned in zip(group.texts, group.rewards, strict=True)
    ]
    shares = {f"answers_{kind}": said.count(kind) / len(said) for kind in ("right", "abstained", "wrong")}
    return shares | {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(axis=1, ddof=1).mean()) if rewards.shape[1] > 1 else 0.0,
        "groups_equal": float((rewards.max(1) == rewards.min(1)).mean()),
        "answer_tokens": float(np.mean([len(ids) for group in groups for ids in group.answers])),
    }
