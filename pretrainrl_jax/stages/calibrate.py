"""Calibration by temperature: one number that divides every logit, fitted on facts that were held out.

The answers stay those that were decoded at temperature 1; only how probable they are is computed again, so
that nothing but the confidence changes (Guo et al., arXiv 1706.04599, fit a classifier's temperature so).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize

from pretrainrl_jax.evaluation.factual import Outcome
from pretrainrl_jax.facts.splits import hashed
from pretrainrl_jax.knowledge.confidence import log_loss
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tree import AnswerTree, Branch

FEWEST, MOST = 30, 500  # held-out questions that it is fitted on
RANGE = (0.1, 10.0)  # temperatures looked at
GRID = 9  # in equal ratios, before the best of them is refined


def calibrate(
    context: Context, loaded: Loaded, outcomes: Sequence[Outcome]
) -> tuple[dict[str, Any], list[float | None]]:
    """The temperature with the least log loss of "right" on held-out facts, and confidences by it.

    Returns:
        {"value", "fitted_on": questions, "log_loss": [before, after]}, or {"reason"} why there is none; and
        of each outcome its best answer's confidence at that temperature, None without one.
    """
    held_out = [o for o in outcomes if o.group == "held_out"]
    fitted = sorted(held_out, key=lambda o: hashed(o.question))[:MOST]
    right = np.array([o.best.right for o in fitted], bool)
    if len(fitted) < FEWEST:
        why = f"{len(fitted)} facts are held out, fewer than {FEWEST} (facts.holdout_every)"
        return {"reason": why}, [None] * len(outcomes)
    if right.all() or not right.any():
        why = f"all answers to the {len(fitted)} held-out facts are {'right' if right.all() else 'wrong'}"
        return {"reason": why}, [None] * len(outcomes)

    def loss(log_temperature: float) -> float:
        confidence = confidences(context, loaded, fitted, math.exp(log_temperature))
        return log_loss(np.array(confidence), right)

    grid = np.linspace(*np.log(RANGE), GRID)
    losses = [loss(value) for value in grid]
    at = int(np.argmin(losses))
    bounds = grid[max(0, at - 1)], grid[min(GRID - 1, at + 1)]
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01})
    log_value = float(best.x) if best.fun < losses[at] else float(grid[at])
    before = log_loss(np.array([o.best.confidence for o in fitted]), right)
    after = min(float(best.fun), losses[at])
    if after >= before:
        log_value, after = 0.0, before
    temperature = math.exp(log_value)
    described = {"value": temperature, "fitted_on": len(fitted), "log_loss": [before, after]}
    return described, list(confidences(context, loaded, outcomes, temperature))


def confidences(
    context: Context, loaded: Loaded, outcomes: Sequence[Outcome], temperature: float
) -> list[float]:
    """The probability of each outcome's best answer, all its spellings together, with logits divided."""
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
    length = context.config.train.row_length
    scores = iter(context.score_answers(loaded, asked, settings.template, length, temperature=temperature))
    return [
        min(1.0, math.fsum(math.exp(logp) for _, logp in next(scores))) if tree.branches else 0.0
        for tree in trees
    ]
