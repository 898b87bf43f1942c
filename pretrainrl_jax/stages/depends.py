"""Which settings a stage's results depend on: what a checkpoint must agree with, what cells may share."""

from typing import Any

from pretrainrl_jax.config import Config
from pretrainrl_jax.workdir import flat, free, resolved

PRETRAINING = (
    "seed", "facts.", "world.", "corpus.", "tokenizer.", "model.", "optimizer.", "pretrain.",
    "mine.template", "train.template", "evaluate.template",
)  # fmt: skip
# Where the trees must fit is decided when they are mined.
MINING = ("mine.", "train.row_length", "train.layout")


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """Every setting that the results of a stage depend on, by its dotted name.

    Args:
        config: the whole configuration.
        stage: "pretrain", "mine", "train/<system>" or "evaluate/<system>"; the system may be "base".
    """
    kind, _, system = stage.partition("/")
    objective = config.objectives.get(system)
    wanted: list[str] = [*PRETRAINING]
    if kind == "mine" or (objective and objective.contrasts):
        wanted += MINING
    if objective:
        chosen = config.evaluate.choose != "last"
        wanted += ["train.", f"objectives.{system}.", "evaluate." if chosen else "evaluate.choose"]
    if kind == "evaluate":
        wanted += ["evaluate.", "train.row_length"]
    values = flat(resolved(config))
    return {
        name: value
        for name, value in values.items()
        if name.startswith(tuple(wanted)) and not free(name, values)
    }
