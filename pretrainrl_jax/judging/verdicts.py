"""Which verdict a reply ends in."""

import re
from collections.abc import Sequence

MARK = re.compile(r"verdict\s*:", re.IGNORECASE)


def read_verdict(reply: str, verdicts: Sequence[str]) -> str | None:
    """The verdict behind the last mark `Verdict:`, or that is all of the reply; None where there is none."""
    last = MARK.split(reply)[-1].strip().strip("*\"'.").strip().casefold()
    return next((word for word in verdicts if word.casefold() == last), None)
