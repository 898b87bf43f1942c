"""What a run learns from: facts, whose falsehoods are mined, or the pairs of a preference file.

All that stages do otherwise for the one than for the other stands here.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.draw import draw_negatives
from pretrainrl_jax.stages import evaluate as of_facts
from pretrainrl_jax.stages import mine as mining
from pretrainrl_jax.stages import preferences
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.dataset import Visit, in_turn, one_of_each
from pretrainrl_jax.trees.tree import AnswerTree


class Material(NamedTuple):
    """What stages do with it."""

    make_trees: Callable[[Context], None]  # trees with references, the stage `mine`
    made_with: Callable[[Context, Loaded], dict[str, Any]]  # what the trees depend on
    known_true: Callable[[Context, Sequence[AnswerTree]], list[str]]  # rejected, and known to be true by now
    name_of: Callable[[Context], Callable[[AnswerTree], str]]  # a tree in messages
    questions: Callable[[Sequence[AnswerTree]], Sequence[AnswerTree]]  # of the trees one of each question
    visit: Callable[[Context, Sequence[AnswerTree]], Visit]  # what a pass sees of such a tree
    evaluate_system: Callable[[Context, str], None]


def _draw(context: Context, trees: Sequence[AnswerTree]) -> Visit:
    negatives, seed = context.config.mine.negatives, context.training_seed
    return in_turn(trees, lambda tree, epoch: draw_negatives(tree, negatives, seed, epoch))


def _known_true(context: Context, trees: Sequence[AnswerTree]) -> list[str]:
    return mining.truths_among(trees, context.asked(context.trained), context.known_truths)


FACTS = Material(
    mining.mine,
    mining.made_with,
    _known_true,
    mining.name_of,
    one_of_each,
    _draw,
    of_facts.evaluate_system,
)
PREFERENCES = Material(
    preferences.score_pairs,
    preferences.made_with,
    lambda context, trees: [],  # what is rejected is what the file rejects
    preferences.name_of,
    lambda trees: trees,
    lambda context, trees: lambda tree, epoch: tree,  # a file's pairs are all seen in each pass
    preferences.evaluate_system,
)


def material(context: Context) -> Material:
    """That of a run."""
    return PREFERENCES if context.preferences else FACTS


def mine(context: Context) -> None:
    """Trees with references: of mined falsehoods, or of the file's pairs."""
    material(context).make_trees(context)


def evaluate(context: Context) -> None:
    """The base model and every trained system that is not evaluated yet; of a model alone the report, too."""
    for system in ("base", *context.config.train.systems):
        if not context.done(f"evaluate/{system}"):
            material(context).evaluate_system(context, system)
    if context.config.model_alone:
        run_on_process_0(lambda: report(context.workdir), "writing the report")
