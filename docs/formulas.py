"""A hook of mkdocs: blocks of ```math are drawn by matplotlib, so that a page needs no script and no network.

GitHub draws the same blocks by itself.
"""

import html
import io
import re
from typing import Any

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
SVG = re.compile(r'<svg[^>]*viewBox="(\S+ \S+ (\S+) (\S+))"[^>]*>.*?</metadata>(.*</svg>)', re.DOTALL)
SIZE = 12.0  # points
EM = 10.0  # of them to the size of the text around: its letters are larger than those of the formula
COLOR = "#010203"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its formulas drawn."""
    return BLOCK.sub(lambda found: f'<div class="formula">{drawn(found[1])}</div>', markdown)


def drawn(formula: str) -> str:
    """An SVG element in the colour of the text around it."""
    file = io.BytesIO()
    look = {"mathtext.fontset": "stix", "svg.hashsalt": formula, "savefig.transparent": True}
    with matplotlib.rc_context(look):
        math_to_image(f"${formula}$", file, FontProperties(size=SIZE), format="svg", color=COLOR)
    found = SVG.search(file.getvalue().decode())
    assert found
    box, width, height, inside = found.groups()
    inside = re.sub(r"\s+", " ", inside.replace(COLOR, "currentColor"))
    return (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{html.escape(formula)}" viewBox="{box}" '
        f'width="{float(width) / EM:.2f}em" height="{float(height) / EM:.2f}em">{inside}'
    )
