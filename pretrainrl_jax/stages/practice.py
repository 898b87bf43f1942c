"""What `train` with rewards and `selfimprove --train` do alike: something is taught, then tried (GRPO)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np

from pretrainrl_jax.config import GrpoConfig
from pretrainrl_jax.model.decoder import Params
from pretrainrl_jax.model.partitioning import replicate
from pretrainrl_jax.objectives.grpo import advantages
from pretrainrl_jax.objectives.loss import Coefficients
from pretrainrl_jax.stages.learner import Learner
from pretrainrl_jax.training.feed import place_trees
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Hook, Session
from pretrainrl_jax.training.step import compile_token_logps
from pretrainrl_jax.training.turns import Turns
from pretrainrl_jax.trees.anchors import AnchorBatch, Anchored
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Item = TypeVar("Item")
LESSON = {"ntp": {"answer": 1.0}}  # the loss by which something is taught


class Tried(NamedTuple):
    """What was asked, samples of an answer, and what each came to."""

    name: str
    prefix: tuple[int, ...]
    samples: Sequence[tuple[int, ...]]  # tokens, an end included
    rewards: Sequence[float]
    outcomes: Sequence[str]  # in a word


@dataclass(frozen=True)
class Practice(Generic[Item]):
    """Batches of lessons, then of what the policy tries, and the steps on them."""

    learner: Learner
    turns: Turns[Item]
    how: GrpoConfig
    every: Coefficients  # of the loss on what is tried
    row_length: int
    microsteps: int
    teach: Callable[[Sequence[Item], Sequence[int]], list[AnswerTree]]  # by the numbers of their turns, too
    attempt: Callable[[Loaded, Sequence[Item], Sequence[int]], list[Tried]]  # of a policy
    what: str  # is tried, in metrics
    outcomes: Sequence[str]  # that may come of it
    anchors: Iterator[AnchorBatch] | None = None  # anchor text for each batch

    @property
    def updates(self) -> int:
        return 1 if self.turns.teaches else self.how.updates

    @property
    def coefficients(self) -> Coefficients:
        if not self.turns.teaches:
            return self.every
        return LESSON | ({"anchor": self.every["anchor"]} if self.anchors else {})

    def next(self, params: Params) -> tuple[PackedBatch | Anchored, list[Tried]]:
        """The next lessons; or what a policy tries next, and what it earns."""
        turns, mesh = self.turns, self.learner.context.mesh
        policy, teaches = replace(self.learner.policy, params=params), turns.teaches
        numbers, items = turns.take()
        tried = [] if teaches else self.attempt(policy, items, numbers)
        trees = self.teach(items, numbers) if teaches else [_learned(one, self.how.form) for one in tried]
        batch, turns.holds = place_trees(trees, mesh, self.row_length, turns.holds, self.microsteps)
        batch = batch if teaches else self._with_logps(policy, batch)
        return (Anchored(batch, next(self.anchors)) if self.anchors else batch), tried

    def _with_logps(self, policy: Loaded, batch: PackedBatch) -> PackedBatch:
        """With log-probabilities of the policy before its updates, and of the base, where needed."""
        how, mesh = self.how, self.learner.context.mesh
        if how.updates == 1 and not how.kl:
            return batch  # the policy that learns is the one that sampled
        temperature = replicate(np.float32(how.temperature), mesh)
        if how.updates > 1:
            logps = compile_token_logps(policy.model, mesh)
            batch = batch._replace(behaviour_logp=logps(policy.params, batch, temperature))
        if how.kl:
            base = self.learner.policy.plain
            logps = compile_token_logps(base.model, mesh)
            batch = batch._replace(reference_logp=logps(base.params, batch, temperature))
        return batch

    def go_on(
        self, session: Session, taught: Schedule, tried: Schedule, hooks: Sequence[Hook], shown: int
    ) -> None:
        """Batch after batch, until no turn is left; metrics are those of a batch's update number `shown`."""
        while not self.turns.ended:
            how, updates = (self.coefficients, taught if self.turns.teaches else tried), self.updates
            batch, came = self.next(session.params)
            metrics = [session.step(batch, *how) for _ in range(updates)][shown]
            numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
            session.log(numbers | (self._told(came) if came else {}))
            for hook in session.due(hooks):
                hook.run()

    def _told(self, tried: Sequence[Tried]) -> dict[str, float]:
        """Shares of what came of it; rewards, and how many groups learn nothing, all equal; length."""
        rewards = np.array([one.rewards for one in tried])
        outcomes = [outcome for one in tried for outcome in one.outcomes]
        shares = {f"{self.what}s_{kind}": outcomes.count(kind) / len(outcomes) for kind in self.outcomes}
        return shares | {
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std(axis=1, ddof=1).mean()) if rewards.shape[1] > 1 else 0.0,
            "groups_equal": float((rewards.max(1) == rewards.min(1)).mean()),
            f"{self.what}_tokens": float(np.mean([len(ids) for one in tried for ids in one.samples])),
        }


def _learned(tried: Tried, form: str) -> AnswerTree:
    """What was asked with its samples as candidates, each with its advantage."""
    branches = (
        Branch(tokens, "candidate", advantage=float(value), source="sample")
        for tokens, value in zip(tried.samples, advantages(tried.rewards, form), strict=True)
    )
    return AnswerTree(tried.name, tried.prefix, tuple(branches))
