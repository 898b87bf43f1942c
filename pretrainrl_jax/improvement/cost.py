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


def price_of(config: Config, cost: Cost) -> float:
    """What a server's verdicts cost at most, by the prices of the settings; 0 where there are none.

    A prompt is reckoned as its texts, four characters a token, and 300 tokens around them.
    """
    judge, suffix = config.judge, config.selfimprove.suffix
    if not judge.server.url:
        return 0.0
    read = (judge.prefix_tokens or config.selfimprove.length) + 2 * suffix + AROUND
    written = judge.server.tokens if judge.reasoning else 4
    return cost.verdicts * (read * judge.server.price_in + written * judge.server.price_out) / 1e6


def warnings_of(judge: JudgeConfig) -> list[str]:
    """What is known to go wrong with such a judge."""
    if judge.quality and judge.pairs == "pivot":
        return [
            "judge.pairs=pivot: in the paper one pivot in place of all pairs took quality from 84.3 to 72.1"
        ]
    if judge.quality and judge.pairs == "sample":
        return ["judge.pairs=sample: what a sample of pairs costs is not known, the paper judged all of them"]
    return []


def told(cost: Cost) -> str:
    """In words."""
    verdicts = (
        f"{cost.verdicts:,} verdicts of the model that judges" if cost.verdicts else "no model's verdict"
    )
    return f"{cost.rollouts:,} rollouts, {cost.tokens:,} sampled tokens, {verdicts}"
