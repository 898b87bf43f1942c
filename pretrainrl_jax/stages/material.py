"""What a run learns from: facts, whose falsehoods are mined, or the pairs of a preference file.

All that stages do otherwise for the one than for the other is a function that both modules have.
"""

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.fingerprint import probes, short_digest
from pretrainrl_jax.stages import evaluate as of_facts
from pretrainrl_jax.stages import mine as mining
from pretrainrl_jax.stages import preferences
from pretrainrl_jax.stages.context import BASE, Context, keep_json, stage_of
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.trees.records import write_trees
from pretrainrl_jax.version import STAMP


def material(context: Context):  # its type is inferred: one of two modules
    """What a run learns from: `make_trees` with references by a base model, `made_with` what they depend on.

    And `known_true`: what is rejected and known to be true by now; `visit`: what a pass sees of a question's
    trees; `name_of`: a tree in messages.
    """
    return preferences if context.preferences else mining


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
    measure = preferences.measure if context.preferences else of_facts.measure
    for system in ("base", *context.config.train.systems):
        stage = f"evaluate/{system}"
        if context.done(stage):
            continue
        with context.working(stage):
            result, line = measure(context, system)
            noted = context.finished().get(stage_of(system), {})
            about = {"system": system, "device_seconds": noted.get("device_seconds")}
            about |= {"texts": short_digest(list(context.texts))}
            keep_json(context.workdir / "evaluations" / f"{system}.json", about | result, indent=None)
            context.screen.say(f"{stage}: {line}")
    if context.config.model_alone:
        run_on_process_0(lambda: report(context.workdir), "writing the report")
