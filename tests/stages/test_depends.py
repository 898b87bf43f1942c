"""Which settings a stage depends on: every one that matters to it, and none that does not."""

from dataclasses import replace

import pytest

from pretrainrl_jax.config import Config, fields_of, replace_value
from pretrainrl_jax.stages.depends import settings_of

STAGES = ("pretrain", "mine", "train/ntp", "train/dpo", "evaluate/base", "evaluate/ntp", "evaluate/dpo")
# setting: (another value, the stages whose results it changes)
CHANGES = {
    "seed": (1, STAGES),
    "model.width": (64, STAGES),
    "world.facts": (61, STAGES),
    "pretrain.rows": (8, STAGES),
    "optimizer.clip": (2.0, STAGES),
    "evaluate.template": ("few_shot", STAGES),  # its examples are held out of everything
    "mine.beams": (7, ("mine", "train/dpo", "evaluate/dpo")),
    "train.row_length": (99, ("mine", "train/ntp", "train/dpo", *STAGES[4:])),
    "train.passes": (9, ("train/ntp", "train/dpo", "evaluate/ntp", "evaluate/dpo")),
    "objectives.dpo.beta": (0.7, ("train/dpo", "evaluate/dpo")),
    "objectives.ntp.learning_rate": (0.7, ("train/ntp", "evaluate/ntp")),
    "objectives.rpo.beta": (0.7, ()),
    "evaluate.beams": (3, STAGES[4:]),
    "train.systems": (("rpo",), ()),
    "checkpoint.every_updates": (3, ()),
    "checkpoint.shard_questions": (3, ()),
    "optimizer.nonfinite": ("skip", ()),
    "sweep.beta": ((0.1,), ()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_the_stages_that_depend_on_it(name: str) -> None:
    value, stages = CHANGES[name]
    before, after = Config(), replace_value(Config(), name, value)
    assert before != after
    assert [s for s in STAGES if settings_of(before, s) != settings_of(after, s)] == list(stages)


def test_a_stage_depends_on_what_the_stages_before_it_depend_on() -> None:
    config = replace(Config(), seed=3)
    base = settings_of(config, "pretrain").items()
    assert all(base <= settings_of(config, stage).items() for stage in STAGES)
    assert settings_of(config, "mine").items() <= settings_of(config, "train/dpo").items()
    assert {name for s in STAGES for name in settings_of(config, s)} <= {n for n, _, _ in fields_of(config)}
