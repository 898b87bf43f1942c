"""Sampled answers, what each of them earns by the facts, and what a policy learns from that."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretrainrl_jax.config import GrpoConfig
from pretrainrl_jax.decoding.answers import answer_text
from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.facts.matching import matches, truths_of
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.rewards import reward
from pretrainrl_jax.knowledge.abstention import verdict
from pretrainrl_jax.model.partitioning import replicate
from pretrainrl_jax.objectives.grpo import advantages
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.step import compile_token_logps
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.tree import AnswerTree, Branch


class Group(NamedTuple):
    """A question, answers sampled of it, and what each earned."""

    fact: Fact
    prefix: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]  # tokens, a terminator that ended one included
    texts: tuple[str | None, ...]  # None: it did not end
    right: tuple[bool, ...]  # by evaluate.match
    rewards: tuple[float, ...]


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
    temperature = replicate(np.float32(how.temperature), context.mesh)
    if how.updates > 1:
        logps = compile_token_logps(policy.model, context.mesh)
        batch = batch._replace(behaviour_logp=logps(policy.params, batch, temperature))
    if how.kl:
        logps = compile_token_logps(base.model, context.mesh)
        batch = batch._replace(reference_logp=logps(base.params, batch, temperature))
    return batch


def told(groups: Sequence[Group]) -> dict[str, float]:
    """What a batch's answers were: rewards, shares of right ones, of "I don't know" and of wrong ones.

    Nothing of no groups.
    """
    if not groups:
        return {}
    rewards = np.array([group.rewards for group in groups])
    said = [
        "wrong" if text is None else verdict(text, right)
        for group in groups
        for text, right in zip(group.texts, group.right, strict=True)
    ]
    shares = {f"answers_{kind}": said.count(kind) / len(said) for kind in ("right", "abstained", "wrong")}
    return shares | {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(axis=1, ddof=1).mean()) if rewards.shape[1] > 1 else 0.0,
        "groups_equal": float((rewards.max(1) == rewards.min(1)).mean()),
        "answer_tokens": float(np.mean([len(ids) for group in groups for ids in group.answers])),
    }
