"""Which settings a stage's results depend on: what a checkpoint must agree with, what cells may share."""

from typing import Any

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import every_setting, flat, matters, named_sections, resolved


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """By dotted name, what "pretrain", "mine", "train/<system>", "tuning/judge", … depends on."""
    kind, _, system = stage.partition("/")
    objective = config.objectives.get(system)
    stages = {"pretrain", "documents", "adapted", kind}
    if kind in ("train", "evaluate"):
        stages.add("choice")
    if objective:
        stages |= {"train", "mine"} if objective.contrasts else {"train"}
        stages |= {"anchor", "anchored"} if objective.anchored else set()
        stages |= {"rewards"} if objective.reinforced else set()
    if stage == "tuning/rewriter":  # the judge scores rewrites
        stages.add("rewriting")
    values = flat(resolved(config))
    return {
        name: values[name]
        for name, _, _, results in every_setting(config)
        if matters(stages.intersection(results), config)
        and all(of == system for _, of in named_sections([name]))
        and (not name.startswith("tuning.") or name.startswith(f"tuning.{system}."))
    }
