"""The shipped configurations: valid, self-explaining, and with the paper's settings."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from pretrainrl_jax.command_line import read_config
from pretrainrl_jax.config import Config, ModelConfig

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(path.name for path in FOLDER.glob("*.py"))
IMPROVING = [name for name in FILES if name.startswith("selfimprove") and name.endswith("b.py")]
LARGE = [name for name in FILES if name[-4].isdigit() or name.endswith("b.py")]
LARGE = [name for name in LARGE if name not in IMPROVING and "smollm" not in name]
RATES = {"popqa": 3e-5, "wikidata": 3e-5, "entityquestions": 2e-5}
PASSES = {"popqa": 3, "wikidata": 3, "entityquestions": 2}


def read(name: str) -> Config:
    return read_config(str(FOLDER / name))


def test_all_that_were_promised_are_here():
    assert LARGE == [
        "entityquestions_qwen3_4b.py",
        "entityquestions_qwen3_8b.py",
        "popqa_llama3_8b.py",
        "popqa_qwen3_14b.py",
        "popqa_qwen3_30b_a3b.py",
        "popqa_qwen3_32b.py",
        "popqa_qwen3_4b.py",
        "popqa_qwen3_8b.py",
        "wikidata_qwen3_8b.py",
    ]
    assert {"quickstart.py", "popqa_small.py", "entityquestions_small.py"} < set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_configuration_is_valid_and_says_how_it_is_run(name: str):
    assert isinstance(read(name), Config)
    doc = runpy.run_path(str(FOLDER / name))["__doc__"]
    assert "python -m pretrainrl_jax.main" in doc
    assert name == "quickstart.py" or f"--config configs/{name}" in doc


@pytest.mark.parametrize("name", IMPROVING)
def test_self_improvement_at_full_scale_has_the_papers_settings(name: str):
    config = read(name)
    doc = " ".join(runpy.run_path(str(FOLDER / name))["__doc__"].split())
    scratch = "scratch" in name
    assert "2601.21343" in doc
    assert "Not measured" in doc
    loop = config.selfimprove
    assert (loop.documents, loop.suffix, loop.length) == (256, 128, 2048)
    assert (loop.steps, loop.reference) == (21_000 if scratch else 2000, "resident")
    assert (config.rollouts.count, config.rollouts.temperature, config.rollouts.top_p) == (16, 1.0, 1.0)
    assert config.optimizer.final == 0.1
    assert round(config.optimizer.warmup * loop.steps) == (2000 if scratch else 100)
    asked = {part: getattr(config.judge, part) for part in ("quality", "safety", "factuality")}
    kind = name.split("_")[1]
    assert asked["quality"] == 1
    assert asked["safety"] == (kind in ("safety", "scratch"))
    assert asked["factuality"] == (kind == "factuality")
    for system in loop.systems:
        method = config.methods[system]
        assert method.learning_rate == (5e-4 if scratch else 5e-6)
        assert (method.start, method.beta) == ("scratch" if scratch else "base", 0.1)
    assert "next_token" in loop.systems


def test_all_of_self_improvement_is_here():
    kinds = ("factuality", "quality", "safety", "scratch")
    assert [f"selfimprove_{kind}_1b.py" for kind in kinds] == IMPROVING
    small = {f"selfimprove_{kind}.py" for kind in ("small", "scratch_small", "wikitext")}
    assert small < set(FILES)


@pytest.mark.parametrize("name", LARGE)
def test_a_full_scale_configuration_has_the_papers_settings(name: str):
    config, kind = read(name), name.split("_")[0]
    doc = " ".join(runpy.run_path(str(FOLDER / name))["__doc__"].split())
    assert "8 x H800" in doc
    assert "Expected hours:" in doc
    assert "Not measured" in doc
    assert f"`{config.model.path}`" in doc
    assert f"`{config.facts.path}`" in doc
    assert config.pretrain.epochs == 0
    assert config.facts.holdout_every == 0
    assert (config.mine.sources, config.mine.pool, config.mine.negatives) == (("pool",), 20, 5)
    assert (config.optimizer.weight_decay, config.train.passes) == (0.1, PASSES[kind])
    assert (config.evaluate.template, config.evaluate.beams) == ("few_shot", 50)
    for system in config.train.systems:
        objective = config.objectives[system]
        assert objective.learning_rate == RATES[kind]
        assert objective.dpo.beta == 0.1
    dpo = {"weight": 1, "beta": 0.1}
    assert {system: config.objectives[system].coefficients for system in config.train.systems} == {
        "dpo": {"dpo": dpo},
        "ntp": {"ntp": {"question": 1, "answer": 1}},
        "ntp_answer": {"ntp": {"answer": 1}},
        "rpo": {"ntp": {"answer_mean": 1}, "dpo": dpo},
        "pretrainrl": {"ntp": {"question": 1, "answer": 1}, "dpo": dpo},
    }
    rpo = config.objectives["rpo"]
    assert rpo.reference == "renewed"
    assert rpo.remine_every > 0
    assert {"dpo", "ntp", "ntp_answer", "rpo", "pretrainrl"} == set(config.train.systems)
    assert "ntp_answer" in config.train.systems  # the control of every claim about negatives


def test_sizes_of_a_model_differ_in_nothing_else():
    def rest(name: str) -> Config:
        config = read(name)
        size = name.removesuffix(".py").rsplit("_", 1)[1]
        assert size in config.model.path.lower().split("-")
        return dataclasses.replace(config, model=ModelConfig(path="of some size"))

    assert rest("popqa_qwen3_4b.py") == rest("popqa_qwen3_8b.py") == rest("popqa_qwen3_14b.py")
    assert rest("popqa_llama3_8b.py") == rest("popqa_qwen3_8b.py")
    assert rest("entityquestions_qwen3_4b.py") == rest("entityquestions_qwen3_8b.py")
