"""What a stage depends on: too little, and cells share what differs; too much, and nothing is shared."""

from dataclasses import replace

import pytest

from pretrainrl_jax.config import METHODS, Config
from pretrainrl_jax.config.stored import changed, every_setting, settings_of

STAGES = ("pretrain", "mine", "train/ntp", "train/dpo", "train/pretrainrl", "evaluate/base", "evaluate/ntp",
          "evaluate/pretrainrl")  # fmt: skip
OTHERS = {  # of each setting the stages whose results change with it
    "seed": set(STAGES),
    "corpus.filler": set(STAGES),
    "optimizer.clip": set(STAGES),
    "evaluate.template": set(STAGES),  # written beside the base model, for `ask`
    "mine.beams": {"mine", "train/dpo", "train/pretrainrl", "evaluate/pretrainrl"},
    "mine.negatives": {"mine", "train/dpo", "train/pretrainrl", "evaluate/pretrainrl"},
    "train.passes": {"train/ntp", "train/dpo", "train/pretrainrl", "evaluate/ntp", "evaluate/pretrainrl"},
    "train.row_length": set(STAGES) - {"pretrain"},
    "objectives.ntp.learning_rate": {"train/ntp", "evaluate/ntp"},
    "objectives.pretrainrl.dpo.beta": {"train/pretrainrl", "evaluate/pretrainrl"},
    "evaluate.beams": {"evaluate/base", "evaluate/ntp", "evaluate/pretrainrl"},
    "objectives.pretrainrl.label": set(),
    "objectives.pretrainrl.above": set(),
    "evaluate.every_steps": set(),
    "evaluate.sample": set(),
    "train.systems": set(),
    "harness.limit": set(),
    "checkpoint.keep": set(),
    "optimizer.nonfinite": set(),
    "sweep.beta": set(),
    "mesh.fsdp": set(),  # a checkpoint opens on another mesh
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_changes_the_stages_that_depend_on_it(name: str) -> None:
    config = Config()
    value = {s.name: s.value for s in every_setting(config)}[name]
    other = {str: "few_shot", int: 7, float: 0.07, tuple: ("ntp", "dpo")}[type(value)]
    other = {"optimizer.nonfinite": "skip", "sweep.beta": [0.1, 0.2]}.get(name, other)
    other_config = changed(config, {name: other})
    assert {s for s in STAGES if settings_of(config, s) != settings_of(other_config, s)} == OTHERS[name]


def test_what_decides_rewards_or_makes_anchor_text_matters_where_there_is_some() -> None:
    """The text does not depend on how much of it a step has, so that cells of a sweep share it."""
    config = Config()
    stages = ("anchor", "train/ntp", "train/anchored", "train/rlvr", "evaluate/anchored")
    for name, value, expected in (
        ("evaluate.match", "contains", {"train/rlvr", "evaluate/anchored"}),
        ("anchor.tokens", 7, {"anchor", "train/anchored", "evaluate/anchored"}),
        ("anchor.questions", 7.0, {"train/anchored", "evaluate/anchored"}),
    ):
        other = changed(config, {name: value})
        assert {s for s in stages if settings_of(config, s) != settings_of(other, s)} == expected


def test_a_judge_depends_on_no_rewriter_and_the_other_way_round() -> None:
    config = Config()
    stages = ("tuning/judge", "tuning/rewriter", "selfimprove/online_dpo")
    for name, value, expected in (
        ("tuning.judge.steps", 7, {"tuning/judge"}),
        ("tuning.rewriter.steps", 7, {"tuning/rewriter"}),
        ("judge.prompts", "prompts", set(stages)),
        ("judge.repetition", 2.0, {"tuning/rewriter", "selfimprove/online_dpo"}),
        ("selfimprove.suffix", 7, {"tuning/rewriter", "selfimprove/online_dpo"}),
        ("selfimprove.steps", 7, {"selfimprove/online_dpo"}),
        ("optimizer.clip", 7.0, set(stages)),
    ):
        other = changed(config, {name: value})
        assert {s for s in stages if settings_of(config, s) != settings_of(other, s)} == expected


def test_every_setting_matters_to_some_stage_or_is_known_not_to() -> None:
    read = {name for stage in STAGES for name in settings_of(Config(), stage)}
    read |= {
        n
        for s in ("rpo", "ntp_answer", "ntp_weighted", "anchored", "rlvr")
        for n in settings_of(Config(), f"train/{s}")
    }
    read |= {n for s in METHODS for n in settings_of(Config(), f"selfimprove/{s}")}
    read |= {n for who in ("judge", "rewriter") for n in settings_of(Config(), f"tuning/{who}")}
    unread = {setting.name for setting in every_setting(Config())} - read
    free = (
        "harness.",
        "export.",
        "bench.",
        "making.",  # what is made says itself what it was made with
        "ask.",
        "checkpoint.",
        "sweep.",
        "mesh.",
        "hosts.",
        "platform.",
        "profile_steps",
        "train.systems",
        "selfimprove.systems",
        "tuning.judge.measure_every",
        "tuning.rewriter.measure_every",
        "selfimprove.kept",
        "selfimprove.entropy_bound",
        "optimizer.nonfinite",
        "model.remat",  # the same values, but for rounding
        "name",
        "evaluate.every_steps",
        "evaluate.sample",
        "evaluate.forgetting",  # what the report makes of an evaluation
        "evaluate.thresholds",
        "evaluate.penalties",
    )
    told = {"label", "words", "above", "recommended"}
    told |= {"url", "key_variable", "timeout", "patience", "cache"}  # where and when a server is asked
    told |= {"concurrent", "requests_per_minute", "tokens_per_minute"}
    told |= {"max_requests", "max_tokens", "max_cost", "price_in", "price_out"}
    assert not {name for name in unread if not name.startswith(free) and name.split(".")[-1] not in told}


def test_where_a_checkpoint_is_chosen_training_depends_on_how_that_is_evaluated() -> None:
    def differ(**changes: object) -> set[str]:
        other = replace(config, evaluate=replace(config.evaluate, **changes))
        return {s for s in STAGES if settings_of(config, s) != settings_of(other, s)}

    trained = {stage for stage in STAGES if stage.startswith("train/")}
    evaluated = {stage for stage in STAGES if stage.startswith("evaluate/")}
    config = Config()
    assert differ(choose="acc", every_steps=5) == trained | evaluated
    config = replace(config, evaluate=replace(config.evaluate, choose="acc", every_steps=5))
    for change in ({"choose": "text_nll"}, {"every_steps": 6}, {"sample": 9}, {"beams": 3}):
        assert differ(**change) == trained | evaluated


def test_an_objective_with_a_preference_sees_the_negatives() -> None:
    config = Config()
    with_preference = changed(config, {"objectives.ntp.dpo.weight": 0.5})
    assert "mine.beams" not in settings_of(config, "train/ntp")
    assert "mine.beams" in settings_of(with_preference, "train/ntp")


def test_a_stage_depends_on_what_the_stages_before_it_depend_on() -> None:
    settings = {stage: settings_of(Config(seed=3), stage).items() for stage in STAGES}
    assert all(settings["pretrain"] <= settings[stage] for stage in STAGES)
    assert settings["mine"] <= settings["train/dpo"]
    assert settings["train/ntp"] <= settings["evaluate/ntp"]
