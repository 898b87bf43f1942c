"""Calibration by temperature: one number that divides every logit, fitted on facts that were held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.evaluation.factual import OWN_WORDING, Outcome
from pretrainrl_jax.facts.splits import hashed
from pretrainrl_jax.knowledge.confidence import log_loss
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tree import AnswerTree, Branch

FEWEST, MOST = 30, 500  # held-out questions that it is fitted on
RANGE = (0.1, 10.0)  # temperatures looked at
GRID, ROUNDS = 9, 3  # in equal ratios, at a time: the last are 4 % apart


def calibrate(
    context: Context, loaded: Loaded, outcomes: Sequence[Outcome]
) -> tuple[dict[str, Any], list[float | None]]:
    """The temperature with the least log loss of "right" on held-out facts, and confidences by it.

    It divides every logit (Guo et al., arXiv 1706.04599, fit a classifier's so). The answers stay those that
    were decoded at temperature 1: nothing but how probable they are is computed again.

    Returns:
        {"value", "fitted_on": questions, "log_loss": [before, after]}, or {"reason"} why there is none; and
        of each outcome of `OWN_WORDING` its best answer's confidence at that temperature, None without one.
    """
    held_out = (o for o in outcomes if o.group == "held_out")
    fitted = sorted(held_out, key=lambda o: hashed(o.question))[:MOST]
    right = np.array([o.best.right for o in fitted], bool)
    if len(fitted) < FEWEST:
        why = f"{len(fitted)} facts are held out, fewer than {FEWEST} (facts.holdout_every)"
        return {"reason": why}, [None] * len(outcomes)
    if right.all() or not right.any():
        why = f"all answers to the {len(fitted)} held-out facts are {'right' if right.all() else 'wrong'}"
        return {"reason": why}, [None] * len(outcomes)

    before = log_loss(np.array([o.best.confidence for o in fitted]), right)
    temperature, after, (low, high) = 1.0, before, RANGE
    for _ in range(ROUNDS):  # each looks closer at the neighbourhood of the best so far
        grid = np.geomspace(low, high, GRID)
        losses = [log_loss(column, right) for column in confidences(context, loaded, fitted, grid.tolist()).T]
        at = int(np.argmin(losses))
        temperature, after = min((temperature, after), (float(grid[at]), losses[at]), key=lambda two: two[1])
        low, high = grid[max(0, at - 1)], grid[min(GRID - 1, at + 1)]
    described = {"value": temperature, "fitted_on": len(fitted), "log_loss": [before, after]}
    told = [o for o in outcomes if o.group in OWN_WORDING]
    scaled = iter(confidences(context, loaded, told, [temperature])[:, 0].tolist())
    return described, [next(scaled) if o.group in OWN_WORDING else None for o in outcomes]


def confidences(
    context: Context, loaded: Loaded, outcomes: Sequence[Outcome], temperatures: Sequence[float]
) -> np.ndarray:
    """The probability of each outcome's best answer, all its spellings together, where logits are divided.

    float64 [outcomes, temperatures].
    """
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
    scores = context.score_answers(loaded, asked, settings.template, temperatures=temperatures)
    masses = iter(np.exp(np.array(of_tree)).sum(0) for of_tree in scores)
    nothing = np.zeros(len(temperatures))
    return np.minimum(1.0, [next(masses) if tree.branches else nothing for tree in trees])
