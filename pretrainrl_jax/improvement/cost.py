"""What a run will cost, before its first step."""

from typing import NamedTuple

from pretrainrl_jax.config import Config, MethodConfig
from pretrainrl_jax.judging.compose import verdicts_per_case


class Cost(NamedTuple):
    """Of all steps of a method, at most: equal texts are judged once, and ended rollouts are shorter."""

    rollouts: int
    tokens: int  # sampled
    verdicts: int  # asked of a model


def rollout_count(config: Config, method: MethodConfig) -> int:
    """Rollouts of a prefix."""
    return (method.rollouts or config.rollouts.count) if "rollout" in method.candidates else 0


def cost_of(config: Config, method: MethodConfig, steps: int) -> Cost:
    """Rollouts, sampled tokens and a model's verdicts of so many steps."""
    documents = steps * config.selfimprove.documents
    rollouts = rollout_count(config, method)
    candidates = rollouts + len({"original", "rewrite"}.intersection(method.candidates))
    verdicts = verdicts_per_case(config.judge, candidates) if method.judged else 0
    return Cost(documents * rollouts, documents * rollouts * config.selfimprove.suffix, documents * verdicts)


def told(cost: Cost) -> str:
    """In words."""
    verdicts = (
        f"{cost.verdicts:,} verdicts of the model that judges" if cost.verdicts else "no model's verdict"
    )
    return f"{cost.rollouts:,} rollouts, {cost.tokens:,} sampled tokens, {verdicts}"
