"""The command line.

    python -m pretrainrl_jax.main [VERB] [--config FILE.py] [--workdir DIR] [--section.key=value …]

Everything that can be checked without JAX is checked before it is imported.
"""

import argparse
import dataclasses
import difflib
import errno
import json
import os
import runpy
import shlex
import sys
import traceback
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from pretrainrl_jax import settings
from pretrainrl_jax.cells import cells
from pretrainrl_jax.config import Config, Objective
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.training.interrupts import Interrupted, termination_interrupts
from pretrainrl_jax.workdir import RENAMED, check_workdir, objective_names, read_workdir

VERBS = {
    "run": "every stage in order; what is finished in the workdir is skipped (the default)",
    "pretrain": "a base model by next-token training on the corpus",
    "mine": "the base model's falsehoods, with their reference log-probabilities",
    "train": "each objective of train.systems on the mined trees",
    "evaluate": "ACC, HR@k, MRR@k, Prob@k and loss on text of every system",
    "ask": 'a model\'s most probable answers: ask "question" [--model.path=CHECKPOINT]',
    "facts": "what a source of facts holds: counts by category, popularity, ten rows, every dropped row",
    "import": "a Hugging Face model as a checkpoint: import --model FOLDER-OR-NAME [--workdir DIR]",
    "export": "a Hugging Face folder of a model: export --to FOLDER [--model CHECKPOINT | --workdir DIR]",
    "report": "the table, report/summary.json and report/index.html of a workdir",
}


class Parser(argparse.ArgumentParser):
    """argparse with our way of complaining."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of printing the usage."""
        raise InputError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives its exit code: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's remarks, before JAX is imported
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "-m", "pretrainrl_jax.main", *arguments])
    try:
        _main(arguments, command)
    except InputError as error:
        return _ended(2, f"error: {_one_line(error)}")
    except KeyboardInterrupt:
        return _ended(130, f"interrupted; what is finished is kept. Go on with: {command}")
    except Interrupted as stopped:
        return _ended(130, f"interrupted: {stopped}. Go on with: {command}", planned=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = f"; checkpoints saved before are kept. Make room, then go on with: {command}" if full else ""
        return _ended(1, f"failed: {_one_line(error)}{hint}")
    except (FloatingPointError, MemoryError) as error:
        return _ended(1, f"failed: {_one_line(error)}")
    except Exception as error:
        if (hosts := _hosts()) is None or hosts.current() is None:
            raise
        hosts.watch.explained(error)  # by the end of another process, which then ends this one, too
        traceback.print_exc()
        return _ended(1, f"failed: {type(error).__name__}: {_one_line(error)}")
    return _ended(0)


def _hosts() -> Any:
    """What knows of the other processes; None where no work was begun that could have any."""
    return sys.modules.get("pretrainrl_jax.hosts.join")


def _ended(code: int, message: str = "", planned: bool = False) -> int:
    """The exit code, with the message said; one process of several ends here, together with the others."""
    if hosts := _hosts():
        hosts.leave(code, message, planned)
    if message:
        print(message, file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())  # whatever it quotes


def _main(arguments: Sequence[str], command: str) -> None:
    named = bool(arguments) and not arguments[0].startswith("-")
    verb = arguments[0] if named else "run"
    if verb not in VERBS:
        raise InputError(f"unknown verb {verb!r}{_nearest(verb, VERBS)}; the verbs are {', '.join(VERBS)}")
    options, config = parse(verb, arguments[1:] if named else arguments)
    with termination_interrupts(config.checkpoint.grace_seconds, command):
        _work(verb, options, config, command)


def _work(verb: str, options: argparse.Namespace, config: Config, command: str) -> None:
    from pretrainrl_jax.progress import Screen

    screen = Screen(options.quiet, options.verbose)
    check_model(config)
    if verb == "facts":
        from pretrainrl_jax.stages.facts import show_facts

        show_facts(config, options.workdir)
    elif verb == "ask":
        check_question(options.question, config.model.path or options.workdir)
        from pretrainrl_jax.stages.start import start_ask

        start_ask(config, options, screen, command)
    elif verb in ("import", "export"):
        _exchange(verb, options, config, screen, command)
    elif verb == "report":
        from pretrainrl_jax.stages.report import compare, report
        from pretrainrl_jax.stages.sweep import conclude

        if options.compare:
            compare(*map(Path, options.compare))
        elif cells(config):
            conclude(options.workdir, config)
        else:
            check_workdir(options.workdir, config, create=False)
            report(options.workdir)
    elif verb != "run" and cells(config):
        raise InputError(f"sweep.* is for `run`, not for `{verb}`: name the workdir of one of its cells")
    elif verb == "evaluate" and options.harness is not None:
        _harness(options, config, screen, command)
    else:
        _train(verb, options, config, screen, command)


def _train(verb: str, options: argparse.Namespace, config: Config, screen: Any, command: str) -> None:
    """The verbs that work on facts."""
    check_workdir(options.workdir, config, verb in ("run", "pretrain"))  # reading facts may take long
    from pretrainrl_jax.facts.reading import read_facts

    facts = read_facts(config).facts
    check_facts(config, facts)
    # JAX is imported only now.
    from pretrainrl_jax.stages.start import start

    start(verb, config, options, facts, screen, command)


def _exchange(verb: str, options: argparse.Namespace, config: Config, screen: Any, command: str) -> None:
    """`import` and `export`: a model from Hugging Face, and one back."""
    if verb == "export":
        check_model_at(options.model or options.workdir, "--model")
        if Path(options.to).exists():
            raise InputError(f"--to={options.to}: it is there already; remove it, or give another folder")
        from pretrainrl_jax.stages.start import start_export

        start_export(config, options, screen, command)
    else:
        if not options.model:
            raise InputError(
                "import needs --model: a Hugging Face folder, or a name such as Qwen/Qwen3-8B-Base"
            )
        from pretrainrl_jax.stages.start import start_import

        start_import(config, options, screen, command)


def _harness(options: argparse.Namespace, config: Config, screen: Any, command: str) -> None:
    """`evaluate --harness`, of a workdir's systems or of the one model that --model.path names."""
    from pretrainrl_jax.evaluation.tasks import load_tasks, task_names

    names = task_names(options.harness)
    if not getattr(options, "model.path"):
        check_workdir(options.workdir, config, create=False)
    elif (options.workdir / "config.json").is_file():
        raise InputError(
            f"{options.workdir} is the workdir of a run: leave --model.path out to evaluate its systems, or "
            "give another --workdir for this model's results"
        )
    tasks = load_tasks(names, config.harness.path)
    from pretrainrl_jax.stages.start import start_harness

    start_harness(config, options, tasks, screen, command)


def parse(verb: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """Options and the configuration with its overrides applied.

    Raises:
        InputError: for an unknown key, a value of the wrong type, or a configuration file that fails.
    """
    parser = Parser(
        prog=f"python -m pretrainrl_jax.main {verb}",
        description=VERBS[verb],
        usage="%(prog)s"
        + ' "QUESTION"' * (verb == "ask")
        + " [--config FILE.py] [--workdir DIR] [--platform NAME] [--quiet] [--verbose]"
        + " [--section.key=VALUE ...]",
        epilog="verbs:\n" + "\n".join(f"  {name}: {text}" for name, text in VERBS.items()),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if verb == "ask":
        parser.add_argument("question", help="what to ask")
    if verb == "report":
        parser.add_argument(
            "--compare", metavar=("A", "B"), nargs=2, help="two workdirs side by side, on one page"
        )
    if verb in ("import", "export"):
        what = (
            "Hugging Face folder, or name on the hub"
            if verb == "import"
            else "checkpoint (the workdir's last)"
        )
        parser.add_argument("--model", metavar="PATH", default="", help=what)
    if verb == "export":
        parser.add_argument("--to", metavar="FOLDER", required=True, help="the folder to make")
    if verb == "evaluate":
        parser.add_argument(
            "--harness",
            metavar="TASKS",
            default=None,
            help="standard evaluations instead, as mmlu,gsm8k,bbh, of every system of the workdir or of the "
            "model that --model.path names",
        )
    parser.add_argument(
        "--config",
        metavar="FILE.py",
        default="",
        help="Python file that defines `config` (configs/quickstart.py)",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", default="", help="folder of all results (runs/<name of the config file>)"
    )
    parser.add_argument(
        "--platform",
        metavar="NAME",
        default="",
        choices=["cpu", "gpu", "tpu"],
        help="cpu, gpu or tpu: refuse any other",
    )
    parser.add_argument("--quiet", action="store_true", help="print results and errors alone")
    parser.add_argument("--verbose", action="store_true", help="print compile times and every file saved too")
    named = objective_names(word.removeprefix("--").partition("=")[0] for word in arguments)
    default = Config()
    default = dataclasses.replace(
        default, objectives={**dict.fromkeys(named, Objective()), **default.objectives}
    )
    every = settings.fields_of(default)
    for name, item, value in every:
        shown = ",".join(value) if isinstance(value, tuple) else value
        doc = item.metadata["doc"].replace("%", "%%")
        values = "|".join(typing.get_args(item.type)) if typing.get_origin(item.type) is Literal else "VALUE"
        parser.add_argument(f"--{name}", dest=name, metavar=values, help=f"{doc} [{shown}]", default=None)
    options, unknown = parser.parse_known_args(arguments)
    for word in unknown:
        known = [name for name, _, _ in every] + ["config", "workdir", "platform", "quiet", "verbose"]
        key = word.partition("=")[0].removeprefix("--")
        what = "unknown setting" if word.startswith("-") else "unexpected argument"
        raise InputError(f"{what} {word.partition('=')[0]}{_nearest(key, known)}")
    if options.workdir.startswith("gs:"):
        raise InputError(f"--workdir={options.workdir}: give a local or mounted folder")
    by_harness = getattr(options, "harness", None) is not None
    one_model = (getattr(options, "model.path") or "") if by_harness else ""
    one_model = options.model.rstrip("/") if verb == "import" else one_model
    stem = Path(one_model).name or Path(options.config or "quickstart").stem
    options.workdir = Path(options.workdir or Path("runs") / stem)
    # A stage run by itself goes on with what the workdir was made with, unless a file is named.
    goes_on = not options.config and verb not in ("run", "pretrain", "ask", "facts", "import", "export")
    goes_on &= not getattr(options, "compare", None) and not one_model
    config = read_workdir(options.workdir) if goes_on else read_config(options.config)
    known = list(config.objectives)
    for name, item, _ in every:
        if (text := getattr(options, name)) is not None:
            config = settings.replace_value(config, name, settings.parse_value(name, text, item.type))
    for name in config.objectives:
        if name not in known and name not in config.train.systems:
            raise InputError(
                f"--objectives.{name}: there is no objective {name!r}{_nearest(name, known)} (a new one is "
                "made where train.systems names it)"
            )
    settings.validate(config)
    for cell in cells(config):
        settings.validate(cell.config)
    return options, config


def _nearest(word: str, known: Any) -> str:
    *of, key = word.split(".")
    if key in RENAMED and of[:1] == ["objectives"]:
        return f", did you mean {'.'.join([*of, RENAMED[key]])}?"
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not near:  # a key without its section, or in the wrong one
        last = word.rsplit(".", 1)[-1]
        near = [name for name in known if name.rsplit(".", 1)[-1] == last][:1]
    return f", did you mean {near[0]}?" if near else ""


def default_config() -> Path:
    """configs/quickstart.py of the checkout, or the copy that an installed package carries."""
    package = Path(__file__).parent
    beside = package.parent / "configs" / "quickstart.py"
    return beside if beside.is_file() else package / "configs" / "quickstart.py"


def read_config(path: str) -> Config:
    """The `config` that a Python file defines.

    Raises:
        InputError: if the file is missing, fails, or defines no Config.
    """
    file = Path(path) if path else default_config()
    if not file.is_file():
        raise InputError(f"no configuration file at {file}: give --config an existing Python file")
    try:
        found = runpy.run_path(str(file)).get("config")
    except (Exception, SystemExit) as error:  # a configuration file may raise anything
        raise InputError(f"{file}:{_line_in(error, file)}: {type(error).__name__}: {error}") from None
    if not isinstance(found, Config):
        raise InputError(f"{file} defines no `config` of type pretrainrl_jax.config.Config")
    _check_sections(file, found, Config())
    return found


def _check_sections(file: Path, found: Any, default: Any, name: str = "") -> None:
    if isinstance(default, Mapping):
        if not isinstance(found, Mapping) or not all(isinstance(of, str) for of in found):
            raise InputError(f"{file}: {name} is {found!r}: it must be a dict of config.Objective by name")
        parts = [(of, value, Objective()) for of, value in found.items()]
    elif dataclasses.is_dataclass(default):
        if not isinstance(found, type(default)):
            raise InputError(f"{file}: {name} is {found!r}: it must be a config.{type(default).__name__}")
        parts = [(item, getattr(found, item), wanted) for item, wanted in vars(default).items()]
    else:
        return
    for item, value, wanted in parts:
        _check_sections(file, value, wanted, f"{name}.{item}".removeprefix("."))


def _line_in(error: BaseException, file: Path) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(file) and error.lineno:
        return error.lineno
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def check_facts(config: Config, facts: Sequence[Fact]) -> None:
    """The facts have what the settings ask of them.

    Raises:
        InputError: if pools are to be collected and some facts have no category.
    """
    if "pool" in config.mine.sources and any(not fact.category for fact in facts):
        raise InputError(
            "mine.sources has pool, and some facts have no category: name their column in "
            "facts.columns.category, or mine the beams alone (mine.sources=beam)"
        )


def check_question(question: str, path: str | Path) -> None:
    """There is something to ask, and someone to ask it.

    Raises:
        InputError: for an empty question, or where no folder is.
    """
    if not question.strip():
        raise InputError("the question is empty")
    check_model_at(path, "--model.path")


def check_model_at(path: str | Path, option: str) -> None:
    """There is a folder that may hold a model.

    Raises:
        InputError: if not.
    """
    if "://" not in str(path) and not Path(path).is_dir():
        raise InputError(
            f"no model at {path}: give --workdir of a run, or {option} of a checkpoint or a Hugging Face "
            "folder"
        )


def check_model(config: Config) -> None:
    """The files of tokenizer and model are there and fit each other.

    Raises:
        InputError: if not.
    """
    for name, path in (("tokenizer.path", config.tokenizer.path), ("model.path", config.model.path)):
        if path and "://" not in path and not Path(path).is_dir():
            raise InputError(f"--{name}={path}: no such folder")
    if config.tokenizer.path and not config.model.path and config.model.vocabulary:
        size = tokenizer_size(Path(config.tokenizer.path))
        if config.model.vocabulary < size:
            raise InputError(
                f"model.vocabulary is {config.model.vocabulary} and the tokenizer in {config.tokenizer.path} "
                f"has {size} tokens: raise it, or set it to 0"
            )


def tokenizer_size(folder: Path) -> int:
    """One more than the largest token id that a tokenizer's files state; 0 where they state none.

    Raises:
        InputError: if one of them is not what a tokenizer's file is.
    """
    ids = [-1]
    path = folder
    try:
        if (path := folder / "tokenizer.json").is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            vocabulary = values["model"].get("vocab", {})
            ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
            ids += [token["id"] for token in values.get("added_tokens", [])]
        if (path := folder / "vocab.json").is_file():
            ids += json.loads(path.read_text(encoding="utf-8")).values()
        if (path := folder / "tokenizer_config.json").is_file():
            ids += map(int, json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {}))
        return max(ids) + 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no tokenizer file: {type(error).__name__}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
