"""Which verdict a reply gives. What cannot be read is no verdict: nothing is guessed."""

import re
from collections.abc import Sequence

THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
OPEN_THOUGHT = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
# What stands behind the word is looked at and left, so that a word "verdict" in it is found, too.
MARK = re.compile(r"\bverdict\b(?=[\s*_`\"']*[:=]?[\s*_`\"'(\[{]*([^\n]*))", re.IGNORECASE)
WRAPPING = " \t\r\n*_`\"'()[]{}<>.,;:!#-–—“”‘’"


def read_verdict(reply: str, verdicts: Sequence[str]) -> str | None:
    """The one of the verdicts that a reply states; None where it states none, or leaves it open.

    It is what stands behind the last "Verdict:", or else all that the reply says. Thoughts in <think> are no
    part of it; a thought that does not end hides all. Case and Markdown do not matter.
    """
    said = THOUGHT.sub("\n", reply)
    if OPEN_THOUGHT.search(said):
        return None
    words = {verdict.casefold(): verdict for verdict in verdicts}
    if marks := list(MARK.finditer(said)):
        return words.get(marks[-1][1].strip(WRAPPING).casefold())
    return words.get(said.strip(WRAPPING).casefold())
