"""What is checked of a command's inputs before JAX is imported."""

from collections.abc import Sequence
from pathlib import Path

from pretrainrl_jax.cells import cells
from pretrainrl_jax.config import Config, JudgeConfig
from pretrainrl_jax.documents.quality import read_blocklist
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.texts import paragraphs
from pretrainrl_jax.facts.choices import CATEGORY, read_answers
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.improvement.labels import read_labels
from pretrainrl_jax.judging.prompts import judge_prompt, prompts_of, read_prompt


def facts(config: Config, facts: Sequence[Fact]) -> None:
    """Raise InputError for facts that lack what settings need of them, or answers that cannot be read."""
    if (number := config.train.wordings) > 1 and not any(fact.rewordings for fact in facts):
        raise InputError(
            f"train.wordings={number}, and no question has another wording: give facts.columns.rewordings, "
            "or templates in facts.rewordings"
        )
    compare = [system for system in config.train.systems if config.objectives[system].contrasts]
    if compare and not config.mine.sources:
        raise InputError(f"mine.sources is empty, and {compare[0]} compares with negatives: name a source")
    categorised = {}  # what needs categories, and what to do without
    if "pool" in config.mine.sources:
        categorised["mine.sources has pool"] = "mine the beams alone (mine.sources=beam)"
    among = {"mine.among": config.mine.among} if "constrained" in config.mine.sources else {}
    among |= {"evaluate.among": config.evaluate.among} if config.evaluate.among else {}
    for setting, answers in among.items():
        if answers == CATEGORY:
            categorised[f"{setting} is {CATEGORY}"] = "give a file of answers, one a line"
        else:
            read_answers(answers, setting)
    if categorised and any(not fact.category for fact in facts):
        what, otherwise = next(iter(categorised.items()))
        raise InputError(
            f"{what}, and some facts have no category: name their column in facts.columns.category, or "
            f"{otherwise}"
        )


def preferences(config: Config) -> None:
    """Raise InputError for what a run on preferences cannot do, before anything is read."""
    if not config.model.path:
        raise InputError("preferences need a model: set --model.path to its folder")
    for system in config.train.systems:
        objective = config.objectives[system]
        if objective.remines or objective.reinforced:
            does = "mines falsehoods again" if objective.remines else "answers questions"
            raise InputError(
                f"train.systems names {system}, which {does}, and preferences have no questions: leave it out"
            )
    for name, is_given, otherwise in (
        ("train.wordings", config.train.wordings > 1, "leave it 1 with preferences.path"),
        ("evaluate.every_steps", config.evaluate.every_steps, "set it to 0 with preferences.path"),
        ("evaluate.among", config.evaluate.among, "leave it out with preferences.path"),
        ("sweep.*", cells(config), "give each run on preferences a --workdir of its own"),
    ):
        if is_given:
            raise InputError(f"{name} is for facts: {otherwise}")


def judge(settings: JudgeConfig) -> None:
    """Raise InputError for a judge's settings that nothing would read."""
    if (settings.path or settings.server.url) and not (
        settings.quality or settings.safety or settings.factuality
    ):
        named = f"path={settings.path}" if settings.path else f"server.url={settings.server.url}"
        raise InputError(f"judge.{named}: no part asks it: give judge.quality, safety or factuality")
    samples(settings)


def samples(settings: JudgeConfig) -> None:
    """Raise InputError for what is asked of a server alone, where there is none."""
    if not settings.server.url and (settings.samples > 1 or settings.reasoning):
        named = f"samples={settings.samples}" if settings.samples > 1 else "reasoning=true"
        raise InputError(
            f"judge.{named} is for a judge on a server: the model of judge.path gives probabilities and "
            "writes nothing: leave it to judge.server"
        )


def labels(config: Config, who: str) -> None:
    """Raise InputError if the labelled texts of a judge or a rewriter cannot be read, or the prompts."""
    if who == "judge":
        verdicts = {part: judge_prompt(config.judge, part).verdicts for part in config.tuning.judge.parts}
        read_labels(config.tuning.judge.data, verdicts, "tuning.judge.data")
    else:
        read_prompt("rewrite", config.rewriter.prompts, config.rewriter.prompt)
        read_labels(config.tuning.rewriter.data, {"rewrite": ()}, "tuning.rewriter.data")


def making(config: Config, kind: str) -> None:
    """Raise InputError if no model would make labels of a kind, or prompts or the blocklist are none."""
    prompts_of(config.judge)
    if kind == "unsafe-data":
        read_blocklist(config.making.blocklist)
        return
    judge_prompt(config.judge, "quality")
    if config.rewriter.is_model:
        for name in config.making.corruptions:
            read_prompt("corrupt", config.rewriter.prompts, name)
    elif not config.judge.safety:
        raise InputError(
            "judge-data needs a model that corrupts texts or one that judges them: give rewriter.path or "
            "rewriter.server.url, or judge.safety=1 with judge.path or judge.server.url"
        )


def text(config: Config) -> None:
    """Raise InputError if evaluate.text or anchor.path cannot be read."""
    for name, path in (("evaluate.text", config.evaluate.text), ("anchor.path", config.anchor.path)):
        if path:
            paragraphs(path, name)


def model_at(path: str | Path, option: str) -> None:
    """Raise InputError if there is no folder that may hold a model."""
    if "://" not in str(path) and not Path(path).is_dir():
        raise InputError(
            f"no model at {path}: give --workdir of a run, or {option} of a checkpoint or a Hugging Face "
            "folder"
        )


def model(config: Config) -> None:
    """Raise InputError if the folders of tokenizer and model are not there."""
    for name, path in (("tokenizer.path", config.tokenizer.path), ("model.path", config.model.path)):
        if path and "://" not in path and not Path(path).is_dir():
            raise InputError(f"--{name}={path}: no such folder")
