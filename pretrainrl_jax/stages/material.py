"""What a run learns from: facts, whose falsehoods are mined, or the pairs of a preference file.

All that stages do otherwise for the one than for the other stands here.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.draw import draw_negatives
from pretrainrl_jax.mining.fingerprint import probes, short_digest
from pretrainrl_jax.stages import evaluate as of_facts
from pretrainrl_jax.stages import mine as mining
from pretrainrl_jax.stages import preferences
from pretrainrl_jax.stages.context import BASE, Context, keep_json, stage_of
from pretrainrl_jax.stages.mine import Mined
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.dataset import Visit, in_turn
from pretrainrl_jax.trees.records import write_trees
from pretrainrl_jax.trees.tree import AnswerTree
from pretrainrl_jax.version import STAMP


class Material(NamedTuple):
    """What stages do with it."""

    make_trees: Callable[[Context, Loaded], Mined]  # with references by a base model
    made_with: Callable[[Context, Loaded], dict[str, Any]]  # what the trees depend on
    known_true: Callable[[Context, Sequence[AnswerTree]], list[str]]  # rejected, and known to be true by now
    name_of: Callable[[Context], Callable[[AnswerTree], str]]  # a tree in messages
    visit: Callable[[Context, Sequence[AnswerTree]], Visit]  # what a pass sees of a question's trees
    measure: Callable[[Context, str], tuple[dict[str, Any], str]]  # of a system; and a line of that


def _draw(context: Context, trees: Sequence[AnswerTree]) -> Visit:
    negatives, seed = context.config.mine.negatives, context.training_seed
    return in_turn(trees, lambda tree, epoch: draw_negatives(tree, negatives, seed, epoch))


def _known_true(context: Context, trees: Sequence[AnswerTree]) -> list[str]:
    return mining.truths_among(trees, context.asked(context.trained), context.known_truths)


FACTS = Material(
    mining.mine_facts,
    mining.made_with,
    _known_true,
    mining.name_of,
    _draw,
    of_facts.measure,
)
PREFERENCES = Material(
    preferences.score_pairs,
    preferences.made_with,
    lambda context, trees: [],  # what is rejected is what the file rejects
    preferences.name_of,
    lambda context, trees: in_turn(trees),  # a file's pairs are all seen in each pass
    preferences.measure,
)


def material(context: Context) -> Material:
    """That of a run."""
    return PREFERENCES if context.preferences else FACTS


def mine(context: Context) -> None:
    """Trees with references, of mined falsehoods or of the file's pairs, with what they were made with."""
    with context.working("mine") as notes:
        made = material(context).make_trees(context, context.load(BASE))
        folder, stamp = context.workdir / "mined", STAMP | {"made_with": made.made_with}

        def write() -> None:
            write_trees(folder / "trees.array_record", made.trees)
            held_out = folder / f"{preferences.HELD_OUT}.array_record"
            held_out.unlink(missing_ok=True)
            if made.held_out:
                write_trees(held_out, made.held_out)
            write_json(folder / "fingerprint.json", stamp | {"probes": probes(made.trees)})
            write_json(folder / "statistics.json", made.statistics)

        run_on_process_0(write, "writing what was mined")
        for line in made.said:
            context.screen.say(line)
        notes |= made.notes


def evaluate(context: Context) -> None:
    """The base model and every trained system that is not evaluated yet; of a model alone the report, too."""
    for system in ("base", *context.config.train.systems):
        stage = f"evaluate/{system}"
        if context.done(stage):
            continue
        with context.working(stage):
            result, line = material(context).measure(context, system)
            noted = context.finished().get(stage_of(system), {})
            about = {"system": system, "device_seconds": noted.get("device_seconds")}
            about |= {"texts": short_digest(list(context.texts))}
            keep_json(context.workdir / "evaluations" / f"{system}.json", about | result, indent=None)
            context.screen.say(f"{stage}: {line}")
    if context.config.model_alone:
        run_on_process_0(lambda: report(context.workdir), "writing the report")
