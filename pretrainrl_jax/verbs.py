"""The verbs of the command line, each declared once: help, options, the settings it reads, what it runs."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrainrl_jax.cells import cells
from pretrainrl_jax.command import Command
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging.prompts import ASKING, judge_prompt
from pretrainrl_jax.stages import check
from pretrainrl_jax.storage import place
from pretrainrl_jax.workdir import check_workdir, prepare_workdir, read_workdir

TRAINS_NOTHING: dict[str, Any] = {"train.systems": (), "pretrain.epochs": 0.0}


@dataclass(frozen=True)
class Verb:
    """One thing the command line does. JAX is imported once `run` has checked what can be without it."""

    help: str
    reads: tuple[str, ...]  # sections, and settings that are in none
    run: Callable[[Command], None]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # its own, as argparse takes them
    goes_on: bool = False  # without --config it goes on with what the workdir was made with
    named: Callable[[argparse.Namespace, Mapping[str, Any]], str] = lambda options, given: ""
    """The one model it works on, where that is not a workdir's: its results lie under that name."""


def _work(command: Command) -> None:
    """`run`, `pretrain`, `mine`, `train`, `evaluate`, `selfimprove`."""
    if command.verb != "run" and cells(command.config):
        raise InputError(f"sweep.* is for `run`, not `{command.verb}`: name the workdir of one of its cells")
    config = command.config
    if config.preferences.path:
        if command.verb == "selfimprove":
            how = "leave preferences.path out, or choose a --workdir without"
            raise InputError(f"selfimprove learns from documents: {how}")
        check.preferences(config)
    if command.verb == "selfimprove":
        check.judge(config.judge)
    check.text(config)
    # Reading data may take long.
    check_workdir(command.workdir, config, command.creates)
    facts, preferences, head = [], None, []
    if config.preferences.path:
        from pretrainrl_jax.preferences.reading import read_preferences

        preferences = read_preferences(config.preferences, config.seed)
    else:
        from pretrainrl_jax.facts.reading import read_facts

        reading = read_facts(config)
        facts, head = reading.facts, reading.head
        check.facts(config, facts)
    from pretrainrl_jax.stages.start import start

    start(command, facts, preferences, head)


def _evaluate(command: Command) -> None:
    if command.options.harness is None:
        alone = "model.path" in command.given and not is_run(command.workdir)
        return _evaluate_model(command) if alone else _work(command)
    from pretrainrl_jax.evaluation.tasks import load_tasks, task_names

    names = task_names(command.options.harness)
    if "model.path" not in command.given:
        check_workdir(command.workdir, command.config, create=False)
    elif is_run(command.workdir):
        how = "leave --model.path out to evaluate its systems, or give the model another --workdir"
        raise InputError(f"{command.workdir} is the workdir of a run: {how}")
    tasks = load_tasks(names, command.config.harness.path)
    from pretrainrl_jax.stages.harness import evaluate_model, harness  # needs the extra `eval`
    from pretrainrl_jax.stages.start import begin, held

    context = begin(command)
    with held(command.workdir):
        if path := command.given.get("model.path"):
            evaluate_model(context, path, command.given.get("model.dtype", ""), tasks)
        else:
            harness(context, tasks)


def _evaluate_model(command: Command) -> None:
    """Any model on a user's facts: no workdir of a run, nothing is trained."""
    config = command.config
    check.model_at(config.model.path, "--model.path")
    if not config.facts.path:
        raise InputError("evaluate --model.path needs facts to ask about: give --facts.path")
    alone = dict(TRAINS_NOTHING)
    if not command.options.config and "evaluate.template" not in command.given:
        alone["evaluate.template"] = "few_shot"  # a model that was trained on no question is shown some
    _work(replace(command, config=changed(config, alone)))


def _selfimprove(command: Command) -> None:
    config, who, kind = command.config, command.options.train, command.options.make
    if who and kind:
        raise InputError("--make and --train are two commands: make labelled texts first, then train on them")
    if who:
        check.labels(config, who)
    if kind:
        check.making(config, kind)
    if (who or kind) and config.model.path and not is_run(command.workdir):  # it is taken as it is
        command = replace(command, config=changed(config, TRAINS_NOTHING))
    _work(command)


def _judge(command: Command) -> None:
    if (path := command.options.bench) is None:
        raise InputError("judge compares judges on labelled texts: give --bench FILE, or --bench for ours")
    from pretrainrl_jax.judge_bench.labelled import SHIPPED, read_labelled

    config = command.config
    folders = [judge for judge in config.bench.judges if "@http" not in judge]
    for folder in folders:
        check.model_at(folder, "--bench.judges")
    if len(folders) == len(config.bench.judges):  # else a server is asked
        check.samples(config.judge)
    verdicts = {part: judge_prompt(config.judge, part).verdicts for part in ASKING}
    labelled = read_labelled(path or str(SHIPPED), verdicts, config.bench.split, config.bench.subset)
    from pretrainrl_jax.stages.bench import bench
    from pretrainrl_jax.stages.start import begin, held

    context = begin(command)
    with held(command.workdir):
        bench(context, labelled)


def _ask(command: Command) -> None:
    config, question, kind = command.config, command.options.question, command.options.template
    if not question.strip():
        raise InputError("the question is empty")
    check.model_at(config.model.path or command.workdir, "--model.path")
    if kind == "bare" and config.ask.examples:
        raise InputError("--template=bare shows no examples: leave it or --ask.examples out")
    from pretrainrl_jax.facts.reading import read_examples

    examples = read_examples(config.ask.examples) if config.ask.examples else ()
    from pretrainrl_jax.stages.asking import ask
    from pretrainrl_jax.stages.start import begin

    ask(begin(command), question, "few_shot" if examples else kind, examples)


def _facts(command: Command) -> None:
    from pretrainrl_jax.stages.facts import show_facts, show_preferences

    if command.config.preferences.path:
        show_preferences(command.config)
    else:
        show_facts(command.config, command.workdir)


def _import(command: Command) -> None:
    if not command.options.model:
        raise InputError("import needs --model: a Hugging Face folder, or a name such as Qwen/Qwen3-8B-Base")
    from pretrainrl_jax.stages.hugging_face import import_model
    from pretrainrl_jax.stages.start import begin, held

    context = begin(command)
    with held(command.workdir):
        import_model(command.options.model, command.workdir, context.mesh, context.screen)


def _export(command: Command) -> None:
    source, target = command.options.model or command.workdir, command.options.to
    check.model_at(source, "--model")
    if "://" in target:
        raise InputError(f"--to={target}: give a folder of this machine")
    if Path(target).exists():
        raise InputError(f"--to={target}: it is there already; remove it, or give another folder")
    from pretrainrl_jax.stages.hugging_face import export_model
    from pretrainrl_jax.stages.start import begin

    context = begin(command)
    export_model(source, Path(target), command.config.export, context.mesh, context.screen)


def _report(command: Command) -> None:
    if command.options.compare and command.given:
        raise InputError(f"--compare shows two reports as they are: leave {', '.join(command.given)} out")
    if command.options.markdown and not command.options.compare:
        raise InputError("--markdown is of a comparison: give --compare A B with it")
    from pretrainrl_jax.stages.report import compare, report
    from pretrainrl_jax.stages.sweep import conclude

    if command.options.compare:
        one, other = (place(path, "--compare") for path in command.options.compare)
        compare(one, other, markdown=command.options.markdown)
    elif cells(command.config):
        conclude(command.workdir, command.config)
    else:
        prepare_workdir(command.workdir, command.config, create=False)
        report(command.workdir)


def _plan(command: Command) -> None:
    from pretrainrl_jax.planning.chips import topology

    options = command.options
    check.judge(command.config.judge)
    if cells(command.config):
        raise InputError("sweep.* is for `run`: plan one of its cells")
    if options.price_per_chip_hour is not None and not options.price_per_chip_hour > 0:
        raise InputError(f"--price-per-chip-hour={options.price_per_chip_hour:g}: give a price above 0")
    if options.search is not None and options.search < 1:
        raise InputError(f"--search={options.search}: give how many candidates to compile, 1 or more")
    chips = topology(options.topology)
    from pretrainrl_jax.planning.target import prepare_target
    from pretrainrl_jax.progress import Screen
    from pretrainrl_jax.stages.start import hush

    hush()
    prepare_target(chips)  # this machine's CPU only compiles, for what is known by now
    screen = Screen(options.quiet, options.verbose)
    how = command.config, chips, screen, options.price_per_chip_hour, options.json
    from pretrainrl_jax.stages.plan import plan, search_plan

    if options.search is None:
        plan(*how)
    else:
        search_plan(*how, options.search)


def is_run(workdir: str | Path) -> bool:
    """Whether a workdir is that of a run, not of a model that was evaluated alone."""
    if not str(workdir) or not (place(workdir) / "config.json").is_file():
        return False
    try:
        return not read_workdir(place(workdir)).model_alone
    except InputError:
        return True  # it will be refused as what it is


def _evaluated(options: argparse.Namespace, given: Mapping[str, Any]) -> str:
    """The model that is evaluated alone; "" for the systems of a workdir."""
    of_run = options.harness is None and (options.config or is_run(options.workdir))
    return "" if of_run else given.get("model.path", "")


HARNESS = (
    "standard evaluations instead, as mmlu,gsm8k,bbh, of every system of the workdir or of the model that "
    "--model.path names"
)
TRAINED = "train a judge or a rewriter on labelled texts instead (--help tuning)"
MADE = "make labelled texts of the documents instead, for judges and rewriters (--help making)"
BENCH = "labelled texts: JSON lines, CSV, Parquet, hf:NAME; without a name the small set that comes with us"
ASKED = "how to put the question (as the model was trained; few_shot also serves one that was not)"
SEARCH = (
    "find the mesh, model.remat and microsteps that are the fastest of those that fit, compiling N "
    "candidates at most (8)"
)
DATA = ("seed", "facts", "preferences", "world")
DEVICES = ("mesh", "hosts", "platform")
WORK = ("name", *DATA, "corpus", "tokenizer", "model", *DEVICES, "checkpoint")
TRAINING = (
    "profile_steps", "optimizer", "lora", "pretrain", "documents", "mine", "anchor", "objectives", "train",
    "evaluate", "sweep",
)  # fmt: skip
IMPROVEMENT = ("rollouts", "judge", "rewriter", "methods", "selfimprove", "tuning", "making")

VERBS = {
    "run": Verb(
        "every stage in order; what is finished in the workdir is skipped (the default)",
        (*WORK, *TRAINING),
        _work,
    ),
    "pretrain": Verb(
        "a base model by next-token training on the corpus; the workdir is made for all stages",
        (*WORK, *TRAINING),
        _work,
    ),
    "mine": Verb(
        "the base model's falsehoods, with their reference log-probabilities",
        (*WORK, "mine", "train", "sweep"),
        _work,
        goes_on=True,
    ),
    "train": Verb(
        "each objective of train.systems on the mined trees", (*WORK, *TRAINING), _work, goes_on=True
    ),
    "evaluate": Verb(
        "ACC, HR@k, MRR@k, Prob@k and loss on text of every system; or standard evaluations",
        (*WORK, "anchor", "objectives", "train", "evaluate", "harness", "sweep"),
        _evaluate,
        {"--harness": {"metavar": "TASKS", "help": HARNESS}},
        goes_on=True,
        named=_evaluated,
    ),
    "selfimprove": Verb(
        "each method of selfimprove.systems on streamed documents: continue, judge, learn, report",
        (*WORK, *TRAINING, *IMPROVEMENT),
        _selfimprove,
        {
            "--train": {"default": "", "choices": ("judge", "rewriter"), "help": TRAINED},
            "--make": {"default": "", "choices": ("judge-data", "unsafe-data"), "help": MADE},
        },
    ),
    "judge": Verb(
        "judges and prompts compared on labelled texts: accuracy, agreement, what they prefer, cost",
        ("seed", *DEVICES, "judge", "bench"),
        _judge,
        {"--bench": {"metavar": "FILE", "nargs": "?", "const": "", "help": BENCH}},
        named=lambda options, given: "judges",
    ),
    "ask": Verb(
        "a model's most probable answers, of a workdir's newest or of model.path",
        (*DEVICES, "model", "evaluate", "ask"),
        _ask,
        {
            "question": {"help": "what to ask"},
            "--template": {"default": "", "choices": ("bare", "few_shot"), "help": ASKED},
        },
    ),
    "facts": Verb(
        "what a source of facts or preferences holds: columns, counts, some rows, every dropped row",
        (*DATA, "tokenizer", "model"),
        _facts,
    ),
    "import": Verb(
        "a Hugging Face model as a checkpoint",
        DEVICES,
        _import,
        {"--model": {"metavar": "PATH", "default": "", "help": "Hugging Face folder, or name on the hub"}},
        named=lambda options, given: options.model,
    ),
    "export": Verb(
        "a Hugging Face folder of a model",
        (*DEVICES, "export"),
        _export,
        {
            "--model": {"metavar": "PATH", "default": "", "help": "checkpoint (the workdir's last)"},
            "--to": {"metavar": "FOLDER", "required": True, "help": "the folder to make"},
        },
    ),
    "plan": Verb(
        "what a configuration takes on a slice that is not here: memory, communication, time",
        ("name", *DATA, "corpus", "tokenizer", "model", "mesh", "platform", *TRAINING[1:], *IMPROVEMENT),
        _plan,
        {
            "--topology": {"metavar": "SLICE", "required": True, "help": "chips, as v5p:4x4x4 or h100:8"},
            "--json": {"action": "store_true", "help": "print numbers for scripts instead"},
            "--search": {"metavar": "N", "nargs": "?", "const": 8, "type": int, "help": SEARCH},
            "--price-per-chip-hour": {"metavar": "X", "type": float, "help": "show what the run costs, too"},
        },
    ),
    "report": Verb(
        "the table, report/summary.json and report/index.html of a workdir",
        ("name", "evaluate", "sweep"),
        _report,
        {
            "--compare": {
                "metavar": ("A", "B"),
                "nargs": 2,
                "help": "two workdirs side by side, on one page",
            },
            "--markdown": {"action": "store_true", "help": "print the comparison as Markdown instead"},
        },
        goes_on=True,
    ),
}
