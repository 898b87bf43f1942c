"""From words to a command: which verb, which options, the configuration with its overrides; and `--help`."""

import argparse
import dataclasses
import difflib
import inspect
import re
import runpy
import shlex
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from pretrainrl_jax.cells import cells
from pretrainrl_jax.command import MAKING, Command
from pretrainrl_jax.config import NAMED, Config
from pretrainrl_jax.config.messages import explained, form, is_list, parse_value
from pretrainrl_jax.config.stored import Setting, changed, every_setting, named_sections, section_named
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import place
from pretrainrl_jax.verbs import VERBS
from pretrainrl_jax.workdir import called, has_begun, read_workdir

PROGRAM = "python -m pretrainrl_jax.main"
DEFAULT = "run"  # the verb
SWEEP = "sweep."  # before a setting's name: values to try
OF_DATA = ("facts.path", "preferences.path", "documents.path")
OWN = (*OF_DATA, "model.path")  # what users have of their own
RUNS = Path("runs")  # where workdirs are that are not named
SUFFIXES = re.compile(r"(\.(csv|tsv|jsonl?|parquet|txt|gz|bz2|xz|zst))+$", re.IGNORECASE)  # of files of data
OPTIONS: dict[str, dict[str, Any]] = {  # of every verb
    "--config": {"metavar": "FILE.py", "default": "", "help": "Python file that defines `config`"},
    "--workdir": {"metavar": "DIR", "default": "", "help": "folder of results, local or gs:// (runs/<name>)"},
    "--platform": {"default": "", "choices": ["cpu", "gpu", "tpu"], "help": "refuse to run on any other"},
    "--quiet": {"action": "store_true", "help": "print results and errors alone"},
    "--verbose": {"action": "store_true", "help": "print compile times and every file saved too"},
}
WIDTH = 100
EXAMPLES = f"""\
examples:
  {PROGRAM}
  {PROGRAM} run --config configs/popqa_small.py --train.passes=5
  {PROGRAM} ask "What is the capital of Arno?" --workdir runs/quickstart
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of printing the usage."""
        raise InputError(message)


def parse(arguments: Sequence[str]) -> Command:
    """The verb, its options, and the configuration with the overrides applied.

    Raises InputError for an unknown verb or key, a setting that the verb does not read, a value of the wrong
    type, or a configuration file that fails.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    verb = arguments[0] if named else DEFAULT
    if verb not in VERBS:
        raise InputError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; the verbs are {', '.join(VERBS)}")
    declared = VERBS[verb]
    given, words = _overrides(verb, arguments[1:] if named else arguments)
    parser = Parser(prog=f"{PROGRAM} {verb}", allow_abbrev=False, add_help=False)
    for name, how in {**declared.options, **OPTIONS}.items():
        parser.add_argument(name, **how)
    options, unknown = parser.parse_known_args(words)
    for word in unknown:
        known = [setting.name for setting in _settings(words)]
        known += [option.removeprefix("--") for option in (*declared.options, *OPTIONS)]
        what = "unknown setting" if word.startswith("-") else "unexpected argument"
        key = word.partition("=")[0]
        raise InputError(f"{what} {key}{nearest(key.removeprefix('--'), known)}")

    model = declared.named(options, given)
    default = RUNS / called(model) if model else _default_workdir(options.config, given)
    options.workdir = place(options.workdir or default)
    alone = options.config or model or getattr(options, "compare", None)
    stored = None
    if not alone and (declared.goes_on or (verb in MAKING and has_begun(options.workdir))):
        stored = read_workdir(options.workdir)
    if stored and not (verb in MAKING and stored.model_alone):  # which trains nothing
        config = stored
    elif options.config or ("world" in declared.reads and not model and not _own(given)):
        config = read_config(options.config)
    else:  # the quickstart's settings suit the quickstart's world and model alone
        config = Config()
    known = {section: list(getattr(config, section)) for section in NAMED}
    try:
        config = changed(config, given)
        cells(config)  # each of them is a valid configuration, too
    except ValidationError as error:
        raise InputError(explained(error)) from None
    for section, stage in {"objectives": "train", "methods": "selfimprove"}.items():
        for name in getattr(config, section):
            if name not in known[section] and name not in getattr(config, stage).systems:
                near = nearest(name, known[section])
                told = f"{name!r}{near} (a new one is made where {stage}.systems names it)"
                raise InputError(f"--{section}.{name}: there is no {section[:-1]} {told}")
    return Command(verb, options, config, given, as_typed(arguments))


def _own(given: dict[str, Any], names: Sequence[str] = OWN) -> list[str]:
    """The paths of facts, preferences, documents and models that settings name, to sweep over included."""
    swept = dict(given.get("sweep.over", ()))
    values = [value for name in names for value in (given.get(name), *swept.get(name, ())) if value]
    return [path for value in values for path in ([value] if isinstance(value, str) else value)]


def _default_workdir(config: str, given: dict[str, Any]) -> Path:
    """Called after the configuration file, or after the first file of data that users have of their own.

    Not after a model: what is evaluated alone is, and a model itself may lie there.
    """
    if config or not _own(given):
        return RUNS / Path(config or "quickstart").stem
    first = next(iter(_own(given, OF_DATA)), "")
    name = SUFFIXES.sub("", Path(first.rpartition(":")[2]).name)
    workdir = RUNS / (re.sub(r"[^\w.-]+", "", name).strip(".-")[:80] or "own")
    return RUNS / f"{workdir.name}_run" if Path(first) == workdir else workdir


def as_typed(arguments: Sequence[str]) -> str:
    """The command that these are the arguments of."""
    return shlex.join([*PROGRAM.split(), *arguments])


def _overrides(verb: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings among the words, `--name=text` or `--name text`, and the other words.

    A former name means its setting.
    """
    known = {setting.name: setting for setting in _settings(words)}
    known |= {setting.former: setting for setting in known.values() if setting.former}
    given: dict[str, Any] = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, joined, text = word.partition("=")
        name = option.removeprefix("--")
        setting = known.get(name)
        swept = None if setting else known.get(name.removeprefix(SWEEP)) if name.startswith(SWEEP) else None
        setting = known["sweep.over"] if swept else setting
        if setting is None or not option.startswith("--"):
            others.append(word)
            continue
        if (section := setting.name.split(".")[0]) not in VERBS[verb].reads:
            reading = ", ".join(name for name, verb in VERBS.items() if section in verb.reads)
            raise InputError(f"{option}: `{verb}` reads no setting of {section}; these verbs do: {reading}")
        if not joined and (not rest or rest[0].startswith("--")):
            raise InputError(f"argument {option}: expected one argument")
        text = text if joined else rest.pop(0)
        if swept:
            kind = swept.field.type
            parts = text.split(";" if is_list(kind) else ",")  # a list has commas of its own
            values = [parse_value(swept.name, part.strip(), kind) for part in parts]
            given.setdefault(setting.name, []).append((swept.name, values))
        else:
            given[setting.name] = parse_value(setting.name, text, setting.field.type)
    return given, others


def _settings(words: Iterable[str]) -> list[Setting]:
    """Every setting, those of objectives and methods that words name included."""
    default = Config()
    listed = every_setting(default)
    options = (word.removeprefix("--").partition("=")[0] for word in words)
    for section, name in named_sections(option.removeprefix(SWEEP) for option in options):
        if name not in getattr(default, section):
            listed += every_setting(section_named(section, name), f"{section}.{name}.")
    return listed


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is meant, as the end of a message; empty where none is like it."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:  # a key without its section, or in the wrong one
        last = word.rsplit(".", 1)[-1]
        near = [name for name in names if name.rsplit(".", 1)[-1] == last][:1]
    return f", did you mean {near[0]}?" if near else ""


def default_config() -> Path:
    """configs/quickstart.py of the checkout, or the copy that an installed package carries."""
    package = Path(__file__).parent
    beside = package.parent / "configs" / "quickstart.py"
    return beside if beside.is_file() else package / "configs" / "quickstart.py"


def read_config(path: str) -> Config:
    """The `config` that a Python file defines.

    Raises InputError if the file is missing, fails, or defines no Config.
    """
    file = Path(path) if path else default_config()
    if not file.is_file():
        raise InputError(f"no configuration file at {file}: give --config an existing Python file")
    try:
        config = runpy.run_path(str(file)).get("config")
    except (Exception, SystemExit) as error:  # a configuration file may raise anything
        told = explained(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        trace = traceback.extract_tb(error.__traceback__)
        lines = [1, *(frame.lineno for frame in trace if frame.filename == str(file))]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines.append(error.lineno)
        raise InputError(f"{file}:{lines[-1] or 1}: {told}") from None
    if not isinstance(config, Config):
        raise InputError(f"{file} defines no `config` of type pretrainrl_jax.config.Config")
    return config


def help_for(arguments: Sequence[str]) -> str:
    """The help that is asked for; empty where none is.

    Raises InputError for the help of something that is neither a verb nor a section.
    """
    asked = [place for place, word in enumerate(arguments) if word.split("=")[0] in ("-h", "--help")]
    if not asked:
        return ""
    _, joined, topic = arguments[asked[0]].partition("=")
    if not joined:
        topic = next((word for word in arguments[asked[0] + 1 :] if not word.startswith("-")), "")
    sections = [item.name for item in dataclasses.fields(Config)]
    if topic in sections:
        return _section(topic)
    if (verb := topic or arguments[0]) in VERBS:
        return _verb(verb)
    if not topic:
        return _overview(sections)
    raise InputError(f"--help {topic}: there is no such verb or section{nearest(topic, [*VERBS, *sections])}")


def _overview(sections: Sequence[str]) -> str:
    verbs = [f"  {name:11} {verb.help}" for name, verb in VERBS.items()]
    listed = textwrap.wrap(", ".join(sections), WIDTH, initial_indent="  ", subsequent_indent="  ")
    text = "\n".join(["verbs (VERB --help tells more):", *verbs, "", "sections of settings:", *listed])
    options = OPTIONS | {"--help": {"metavar": "SECTION", "help": "this, or the settings of one section"}}
    usage = f"{PROGRAM} [VERB] [--config FILE.py] [--workdir DIR] [--section.key=VALUE ...]"
    return _page(usage, "", options, f"{text}\n\n{EXAMPLES}")


def _section(name: str) -> str:
    section, prefix = getattr(Config(), name), f"{name}."
    if isinstance(section, Mapping):
        section, prefix = NAMED[name][1], f"{name}.NAME."
    if dataclasses.is_dataclass(section):
        about, listed = inspect.getdoc(section), every_setting(section, prefix)
    else:
        about, listed = "", [setting for setting in every_setting(Config()) if setting.name == name]
    settings = {}
    for setting, item, value, _ in listed:
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        settings[f"--{setting}"] = {"metavar": form(item.type), "help": f"{item.metadata['doc']} [{value}]"}
    return _page(f"{PROGRAM} [VERB] --{listed[0].name}=VALUE ...", about, settings, "")


def _verb(name: str) -> str:
    verb = VERBS[name]
    word = "".join(f" {option.upper()}" for option in verb.options if not option.startswith("-"))
    reads = textwrap.fill(", ".join(verb.reads), WIDTH, initial_indent="  ", subsequent_indent="  ")
    usage = f"{PROGRAM} {name}{word} [--workdir DIR] [--section.key=VALUE ...]"
    end = f"it reads these sections of settings (--help SECTION):\n{reads}\n"
    return _page(usage, verb.help, {**verb.options, **OPTIONS}, end)


def _page(usage: str, about: str | None, options: Mapping[str, Mapping[str, Any]], end: str) -> str:
    parser = argparse.ArgumentParser(
        usage=usage,
        description=about,
        epilog=end,
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 40, WIDTH),
    )
    for name, how in options.items():
        shown = {key: value for key, value in how.items() if key != "required" or name.startswith("-")}
        parser.add_argument(name, **{**shown, "help": how["help"].replace("%", "%%")})
    return parser.format_help().rstrip()
