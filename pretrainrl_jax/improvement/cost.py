"""What a run will cost, before its first step."""

from typing import NamedTuple

from pretrainrl_jax.config import Config, JudgeConfig, MethodConfig
from pretrainrl_jax.judging.compose import verdicts_per_case

AROUND = 300  # tokens of a prompt that are its own words


class Cost(NamedTuple):
    """Of all steps of a method, at most: equal texts are judged once, and ended rollouts are shorter."""

    rollouts: int
    tokens: int  # sampled
    verdicts: int  # asked of a model
    rewrites: int = 0  # of a model


def rollout_count(config: Config, method: MethodConfig) -> int:
    """Rollouts of a prefix."""
    return (method.rollouts or config.rollouts.count) if "rollout" in method.candidates else 0


def cost_of(config: Config, method: MethodConfig, steps: int) -> Cost:
    """Rollouts, sampled tokens and a model's verdicts of so many steps."""
    documents = steps * config.selfimprove.documents
    rollouts = rollout_count(config, method)
    candidates = rollouts + len({"original", "rewrite"}.intersection(method.candidates))
    verdicts = verdicts_per_case(config.judge, candidates) if method.judged else 0
    rewrites = documents * ("rewrite" in method.candidates and config.rewriter.is_model)
    sampled = documents * rollouts * config.selfimprove.suffix
    return Cost(documents * rollouts, sampled, documents * verdicts, rewrites)


def comparing(config: Config) -> int:
    """A model's verdicts, at most, that compare a method with the base model."""
    return compared(config) * verdicts_per_case(config.judge, 2)


def compared(config: Config) -> int:
    """Held-out prefixes, at most, on which methods are compared with the base model; 0: nobody judges."""
    judged = any(config.methods[system].judged for system in config.selfimprove.systems)
    return config.selfimprove.compared if judged else 0


def price_of(config: Config, cost: Cost) -> float:
    """What verdicts and rewrites of servers cost at most, by the prices of the settings; 0 without any.

    A prompt is reckoned as the longest texts it may hold and 300 tokens around them, a reply as the longest.
    """
    total, judge, rewriter = 0.0, config.judge, config.rewriter
    asked = (
        (cost.verdicts, judge.prefix_tokens, judge.server),
        (cost.rewrites, rewriter.prefix_tokens, rewriter.server),
    )
    for count, prefix, server in asked:
        if server.url:
            read = (prefix or config.selfimprove.length) + 2 * config.selfimprove.suffix + AROUND
            total += count * (read * server.price_in + server.tokens * server.price_out) / 1e6
    return total


def warnings_of(judge: JudgeConfig) -> list[str]:
    """What is known to go wrong with such a judge."""
    known = {
        "pivot": "in the paper one pivot in place of all pairs took quality from 84.3 to 72.1",
        "sample": "what a sample of pairs costs is not known, the paper judged all of them",
    }
    told = judge.quality and known.get(judge.pairs)
    return [f"judge.pairs={judge.pairs}: {told}"] if told else []


def told(cost: Cost) -> str:
    """In words."""
    rewrites = f", {cost.rewrites:,} rewrites of a model" if cost.rewrites else ""
    sampled = f"{cost.rollouts:,} rollouts, {cost.tokens:,} sampled tokens"
    return f"{sampled}, {cost.verdicts:,} verdicts of the model that judges{rewrites}"
