"""What a model is asked as a judge: files of prompts/, or a folder of one's own in their place.

A file is the prompt with named places such as {prefix}, and a last line `verdicts: best | … | worst` with the
words that may follow the prompt, after a space.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pretrainrl_jax.errors import InputError

OURS = Path(__file__).with_name("prompts")
PLACE = re.compile(r"\{(\w+)\}")
PLACES = {  # of each prompt, the ones it cannot do without first, and how many they are
    "quality": (("first", "second", "prefix"), 2),
    "safety": (("suffix",), 1),  # the paper's judge of safety sees nothing else
    "factuality": (("suffix", "reference", "prefix"), 2),
}


@dataclass(frozen=True)
class Prompt:
    """A text with places, and the verdicts on it, the best one first."""

    text: str  # ends in words of its own: verdicts are cut into tokens after these
    verdicts: tuple[str, ...]

    def fill(self, **texts: str) -> str:
        """The prompt with a text in each of its places; names of places in these texts mean nothing."""
        return PLACE.sub(lambda place: texts[place[1]], self.text)

    @property
    def ending(self) -> str:
        """What stands behind the last place."""
        return PLACE.split(self.text)[-1]


def read_prompt(name: str, folder: str = "") -> Prompt:
    """The prompt of a part: the folder's `name`.txt where it has one, else ours.

    Raises:
        InputError: if the folder is not there, or the file cannot be read or is not as it must be.
    """
    if folder and not Path(folder).is_dir():
        raise InputError(f"judge.prompts is {folder!r}: there is no such folder")
    path = Path(folder, f"{name}.txt")
    if not folder or not path.exists():
        path = OURS / path.name
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"cannot read {path}: {why}; check judge.prompts") from None
    text, _, last = text.rstrip().rpartition("\n")
    verdicts = tuple(word.strip() for word in last.removeprefix("verdicts:").split("|"))
    prompt = Prompt(text.rstrip(), verdicts)
    if wrong := _fault(name, prompt, last):
        raise InputError(f"{path} is no prompt: {wrong}")
    return prompt


def _fault(name: str, prompt: Prompt, last: str) -> str:
    """What is wrong with a prompt; "" where nothing is."""
    known, needed = PLACES[name]
    there = PLACE.findall(prompt.text)
    verdicts = set(prompt.verdicts)
    if not last.startswith("verdicts:") or "" in verdicts or len(verdicts) < max(2, len(prompt.verdicts)):
        return f"its last line is {last[:60]!r}; write verdicts: BEST | … | WORST, each another word"
    if name == "quality" and len(verdicts) > 2:
        return f"it has {len(verdicts)} verdicts; a pair has two, the first text's and the second's"
    if unknown := [place for place in there if place not in known]:
        return f"it has the place {{{unknown[0]}}}; there are {', '.join(f'{{{place}}}' for place in known)}"
    if missing := [place for place in known[:needed] if place not in there]:
        return f"it has no place {{{missing[0]}}}"
    return "" if prompt.ending.strip() else "it must end in words of its own, not in a place"
