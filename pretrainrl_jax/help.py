"""`--help`: one screen; of a section, its settings; of a verb, its options and the sections it reads."""

import argparse
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pretrainrl_jax.command_line import OPTIONS, PROGRAM, nearest
from pretrainrl_jax.config import NAMED, Config
from pretrainrl_jax.config.messages import form
from pretrainrl_jax.config.stored import every_setting
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.verbs import VERBS

WIDTH = 100
USAGE = f"{PROGRAM} [VERB] [--config FILE.py] [--workdir DIR] [--section.key=VALUE ...]"
EXAMPLES = f"""\
examples:
  {PROGRAM}
  {PROGRAM} run --config configs/popqa_small.py --train.passes=5
  {PROGRAM} ask "What is the capital of Arno?" --workdir runs/quickstart
"""


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
    return _page(USAGE, "", options, f"{text}\n\n{EXAMPLES}")


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
