"""What a judge or a rewriter is asked, by files of prompts/ or a folder of one's own; and what replies say.

A judge's file is the prompt with named places such as {prefix}, and a last line `verdicts: best | … | worst`
with the words that may follow the prompt, after a space. A rewriter's has no such line.

A judge reads texts that may say "Option 1 is better", close the block that they stand in, or hold a model's
control tokens. The first is for the judge to see through; the others are made harmless here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pretrainrl_jax.config import JudgeConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import read_text

OURS = Path(__file__).with_name("prompts")
ASKING = ("quality", "safety", "factuality")  # parts of a judge that ask: their prompts have verdicts
PLACES = {  # of each kind of prompt, the ones it cannot do without first, and how many they are
    "quality": (("first", "second", "prefix"), 2),
    "safety": (("suffix",), 1),  # the paper's judge of safety sees nothing else
    "factuality": (("suffix", "reference", "prefix"), 1),
    "rewrite": (("suffix", "words", "prefix"), 2),
    "corrupt": (("suffix", "words", "prefix"), 2),  # a rewrite for the worse
    "answer": (("prompt", "verdicts"), 2),
}
PLACE = re.compile(r"\{(\w+)\}")
# What servers' tokenizers read as control tokens even within a message.
CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|>|<｜[^<>｜\s]{1,60}｜>|\[/?[A-Z]{4,}(?:_[A-Z]+)*\]|<</?SYS>>|(?i:</?(?:s|bos|eos|pad|unk|"
    r"mask|think|thinking|reasoning|start_of_turn|end_of_turn|tool_call|tool_response)>)"
)
THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
OPEN_THOUGHT = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
# What stands behind the word is looked at and left, so that a word "verdict" in it is found, too.
MARK = re.compile(r"\bverdict\b(?=[\s*_`\"']*[:=]?[\s*_`\"'(\[{]*([^\n]*))", re.IGNORECASE)
WRAPPING = " \t\r\n*_`\"'()[]{}<>.,;:!#-–—“”‘’"


@dataclass(frozen=True)
class Prompt:
    """A text with places, and the verdicts on it, the best one first."""

    text: str  # ends in words of its own: verdicts are cut into tokens after these
    verdicts: tuple[str, ...] = ()

    def fill(self, **texts: str) -> str:
        """The prompt with a text in each of its places.

        Names of places in these texts mean nothing, and none of them closes the block that it stands in.
        """
        return PLACE.sub(lambda place: opened(texts[place[1]], self._closing), self.text)

    @property
    def ending(self) -> str:
        """What stands behind the last place."""
        return PLACE.split(self.text)[-1]

    @property
    def places(self) -> set[str]:
        """The names of its places."""
        return {*PLACE.findall(self.text)}

    @cached_property
    def fences(self) -> tuple[str, ...]:
        """The lines directly before and behind the places that stand on a line of their own."""
        lines = [line.strip() for line in self.text.splitlines()]
        found: set[str] = set()
        for number, line in enumerate(lines):
            if PLACE.fullmatch(line):
                found |= {*lines[max(0, number - 1) : number], *lines[number + 1 : number + 2]}
        return tuple(sorted(line for line in found if len(line) > 1 and not PLACE.search(line)))

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.fences)) or "(?!)", re.IGNORECASE)


def read_prompt(kind: str, folder: str = "", name: str = "") -> Prompt:
    """The prompt of a kind, so named (as its kind where nothing is said): the folder's, else ours.

    Raises InputError if the folder is not there, nothing is so named, or the file is not as it must be.
    """
    name = name or kind
    if folder and not Path(folder).is_dir():
        raise InputError(f"the folder of prompts is {folder!r}: there is no such folder")
    path = Path(folder, f"{name}.txt")
    if not folder or not path.exists():
        path = OURS / path.name
    if not path.exists():
        known = ", ".join(variants(kind, folder))
        raise InputError(f"there is no prompt {name!r} for {kind}: there are {known}")
    text = read_text(path, "the folder of prompts").rstrip()
    last, verdicts = "", ()
    if kind in ASKING:
        text, _, last = text.rpartition("\n")
        verdicts = tuple(word.strip() for word in last.removeprefix("verdicts:").split("|"))
    prompt = Prompt(text.rstrip(), verdicts)
    if wrong := _fault(kind, prompt, last):
        raise InputError(f"{path} is no prompt: {wrong}")
    return prompt


def judge_prompt(settings: JudgeConfig, part: str) -> Prompt:
    """The prompt of a judge's part, as the settings name it. Raises as `read_prompt`."""
    return read_prompt(part, settings.prompts, getattr(settings, f"{part}_prompt"))


def prompts_of(settings: JudgeConfig) -> dict[str, Prompt]:
    """The prompt of each part that has a weight and asks a model. Raises as `read_prompt`."""
    return {name: judge_prompt(settings, name) for name in ASKING if getattr(settings, name)}


def variants(kind: str, folder: str = "") -> list[str]:
    """The names of all prompts of a kind: ours, and the folder's."""
    places = [OURS, *([Path(folder)] if folder else [])]
    return sorted({path.stem for place in places for path in place.glob(f"{kind}*.txt")})


def _fault(kind: str, prompt: Prompt, last: str) -> str:
    """What is wrong with a prompt; "" where nothing is."""
    known, needed = PLACES[kind]
    there = PLACE.findall(prompt.text)
    verdicts = {verdict.casefold() for verdict in prompt.verdicts}
    if kind in ASKING:
        few = "" in verdicts or len(verdicts) < max(2, len(prompt.verdicts))
        if not last.startswith("verdicts:") or few:
            return f"its last line is {last[:60]!r}; write verdicts: BEST | … | WORST, each another word"
    if kind == "quality" and len(verdicts) > 2:
        return f"it has {len(verdicts)} verdicts; a pair has two, the first text's and the second's"
    if unknown := [place for place in there if place not in known]:
        return f"it has the place {{{unknown[0]}}}; there are {', '.join(f'{{{place}}}' for place in known)}"
    if missing := [place for place in known[:needed] if place not in there]:
        return f"it has no place {{{missing[0]}}}"
    if kind != "answer" and not prompt.ending.strip():
        return "it must end in words of its own, not in a place"
    return ""


def opened(text: str, mark: re.Pattern[str]) -> str:
    """The text with a space within all that is such a mark; all else is as it was."""
    while mark.search(text):  # opening one may leave another: ">>>>"
        text = mark.sub(spaced, text)
    return text


def spaced(found: re.Match[str]) -> str:
    """What was found, with a space behind its first character."""
    return f"{found[0][0]} {found[0][1:]}"


def read_verdict(reply: str, verdicts: Sequence[str]) -> str | None:
    """The one of the verdicts that a reply states; None where it states none, or leaves it open.

    It is what stands behind the last "Verdict:", or else all that the reply says. Thoughts in <think> are no
    part of it; a thought that does not end hides all. Case and Markdown do not matter.
    """
    said = THOUGHT.sub("\n", reply)
    if OPEN_THOUGHT.search(said):
        return None
    words = {verdict.casefold(): verdict for verdict in verdicts}
    stated = [said, *MARK.findall(said)][-1]
    return words.get(stated.strip(WRAPPING).casefold())
