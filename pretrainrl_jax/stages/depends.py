"""Which settings a stage's results depend on: what a checkpoint must agree with, what cells may share."""

from typing import Any

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import every_setting, flat, matters, objective_names, resolved


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """By dotted name, what "pretrain", "mine", "train/<system>" or "evaluate/<system>" depends on."""
    kind, _, system = stage.partition("/")
    objective = config.objectives.get(system)
    stages = {"pretrain", "documents", kind}
    if kind in ("train", "evaluate"):
        stages.add("choice")
    if objective:
        stages |= {"train", "mine"} if objective.contrasts else {"train"}
    values = flat(resolved(config))
    return {
        name: values[name]
        for name, _, _, results in every_setting(config)
        if matters(stages.intersection(results), config) and objective_names([name]) in ([], [system])
    }
