"""A hook of mkdocs: blocks of ```math become MathML, which browsers draw without a script or a network.

GitHub draws the same blocks by itself.
"""

import re
from typing import Any

from latex2mathml.converter import convert

BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its formulas drawn."""
    return BLOCK.sub(lambda found: f'<div class="formula">{convert(found[1], display="block")}</div>', markdown)
