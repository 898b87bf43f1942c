"""`train` of an objective with rewards (RLVR): sample answers, see whether they are true, learn, again."""

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
from pretrainrl_jax.facts.matching import truths_of
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.rewards import reward
from pretrainrl_jax.knowledge.abstention import verdict
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
    data = {"facts": context.fingerprint(base, settings.template, facts, settings)}
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

    def seconds_of_a_pass() -> float:
        enough = passes_to_measure(context, len(facts))
        visits = Visits(facts, config.seed, enough, settings.questions, {})
        numbers = objective.coefficients, Schedule(0.0, visits.batches, 0.0, 0.0)
        anchors = anchors_beside(context, texts, visits)

        def make(params: Params) -> Any:
            return practise(context, how, base, replace(base, params=params), visits, anchors)[0]

        batches = ((count, make) for count in visits.counts)
        took = seconds_a_question(step, begin(), batches, numbers, context.mesh, how.updates)
        return len(facts) * took

    passes = passes_of(context, run, seconds_of_a_pass)
    state, progress = resume(run, begin())
    if not how.kl:  # only its KL needs the base model beside the policy
        jax.tree.map(lambda x: x.delete(), base.params)

    visits = Visits(facts, config.seed, passes, settings.questions, progress.stream)
    visits.row = progress.row
    total = visits.batches * how.updates
    schedule = Schedule(objective.learning_rate, total, config.optimizer.warmup, config.optimizer.final)
    context.screen.say(
        f"{run.stage}: {total} steps; {visits.batches} times {settings.questions} questions are answered "
        f"{how.samples} times" + (f" and learned {how.updates} times" if how.updates > 1 else "")
    )
    anchors = anchors_beside(context, texts, visits)

    with Session(run, step, state, progress, visits, context.mesh, total) as session:
        watch = Watch(context, session, base)
        hooks = [session.checkpoint, Hook(watch.look, every_steps=config.evaluate.every_steps)]
        watch.begin()
        while not visits.ended:
            policy = replace(base, params=session.state.params)
            batch, groups = practise(context, how, base, policy, visits, anchors)
            updates = [session.step(batch, objective.coefficients, schedule) for _ in range(how.updates)]
            metrics = jax.device_get(updates[-1])
            session.log(told(groups) | {name: float(value) for name, value in metrics.items()})
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


def practise(
    context: Context,
    how: GrpoConfig,
    base: Loaded,
    policy: Loaded,
    visits: "Visits",
    anchors: Iterator[AnchorBatch] | None,
) -> tuple[PackedBatch | Anchored, list[Group]]:
    """The next questions, answers sampled of them, what those earned, and the batch that is learned."""
    settings = context.config.train
    taught = visits.batch < round(how.teach * visits.batches)
    numbers, asked = visits.take()
    groups = answer(context, how, policy, asked, numbers, taught)
    trees = [learned_tree(how, group) for group in groups]
    batch, visits.holds = place_trees(
        trees, context.mesh, settings.row_length, visits.holds, settings.grad_accum_steps
    )
    batch = with_logps(context, how, base, policy, batch)
    return (Anchored(batch, next(anchors)) if anchors else batch), groups


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
    """The questions in the order they are asked, all passes one after another; each pass is shuffled anew.

    Args:
        state: what an earlier run had saved; empty at the beginning.
    """

    def __init__(
        self, facts: Sequence[Fact], seed: int, passes: float, size: int, state: dict[str, Any]
    ) -> None:
        count = len(facts)
        numbers = range(math.ceil(passes))
        orders = (np.random.default_rng([seed, number]).permutation(count) for number in numbers)
        self._order = [facts[i] for order in orders for i in order][: max(1, round(passes * count))]
        self._size, self.row = size, 0  # `row`: visits made
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        self.holds = Holds(rows, Capacity(*sizes))

    @property
    def batches(self) -> int:
        """Number of batches of all passes."""
        return -(-len(self._order) // self._size)

    @property
    def batch(self) -> int:
        """The number of the next batch."""
        return -(-self.row // self._size)

    @property
    def counts(self) -> list[int]:
        """Questions of each batch."""
        count = len(self._order)
        return [min(self._size, count - start) for start in range(0, count, self._size)]

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
        numbers = range(self.row, min(self.row + self._size, len(self._order)))
        self.row = numbers.stop
        return numbers, [self._order[n] for n in numbers]

    def names(self, row: int) -> list[str]:
        """What the batch that ended before `row` asks."""
        start = (row - 1) // self._size * self._size
        return list(dict.fromkeys(fact.question for fact in self._order[start:row]))


def answer(
    context: Context,
    how: GrpoConfig,
    policy: Loaded,
    facts: Sequence[Fact],
    numbers: Sequence[int],
    taught: bool,
) -> list[Group]:
    """Answers sampled of each question, and their rewards; where it is taught, one is "I don't know"."""
    tokenizer, config = policy.tokenizer, context.config
    template = context.template(config.train.template)
    ends = template.terminators(tokenizer, policy.model.shape.vocabulary)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    encoded = encode_branches(tokenizer, template, prompts, [[IDK]] * len(facts))
    drawn = sample_batch(
        policy.model,
        policy.params,
        encoded.prefixes,
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
    for fact, prefix, (idk,), of_fact in zip(facts, encoded.prefixes, encoded.branches, drawn, strict=True):
        answers = [until_end(sample.tokens, ends) for sample in of_fact]
        if taught:
            answers[-1] = idk
        texts = tuple(answer_text(tokenizer, ids[:-1]) if ends[ids[-1]] else None for ids in answers)
        true = truths_of(fact, fact.question, context.known_truths)
        earned = tuple(reward(text, true, how.reward, config.evaluate.match) for text in texts)
        groups.append(Group(fact, prefix, tuple(answers), texts, earned))
    return groups


def until_end(tokens: Sequence[int], ends: np.ndarray) -> tuple[int, ...]:
    """The tokens up to the first terminator, which is kept."""
    length = next((place for place, token in enumerate(tokens, 1) if ends[token]), len(tokens))
    return tuple(tokens[:length])


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
