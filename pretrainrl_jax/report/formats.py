"""Values of a file as a reader sees them: what is not a number becomes a dash, never text such as nan."""

import html
import math
import re
from numbers import Real
from typing import Any

from markupsafe import Markup

Json = dict[str, Any]


def number(value: object) -> float | None:
    """A finite float, or None for anything that is not one: NaN and infinity have no place in JSON."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None


def percent(rate: float | None, unit: str = "%") -> str:
    """A rate as a percentage with one decimal."""
    return "–" if rate is None else f"{100 * rate:.1f}{unit}"


def chance(probability: float | None) -> str:
    """A probability as a percentage; small ones keep two digits instead of rounding to nothing."""
    if probability is None or probability >= 0.01 or probability == 0:
        return percent(probability)
    return f"{100 * probability:.2g}%" if probability >= 1e-5 else "<0.001%"


def decimals(value: float | None, places: int) -> str:
    """A number with fixed decimals, a dash where there is none; what rounds to zero has no sign."""
    return "–" if value is None else f"{value:z,.{places}f}".replace("-", "−")


def signed(value: float, places: int = 2) -> str:
    """A number with its sign; what rounds to zero has none."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def spread(items: list[Any], count: int = 10) -> list[Any]:
    """At most `count` items at even distances: a choice that nobody made by looking at them."""
    shown = min(count, len(items))
    return [items[i * len(items) // shown] for i in range(shown)]


def duration(seconds: float | None) -> str:
    """A time in the units a reader thinks in."""
    if seconds is None or seconds < 60:
        return "–" if seconds is None else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:,} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def brief(value: float) -> str:
    """A number of any size in a few characters: two digits, those before the point, or millions."""
    if abs(value) >= 1e6:
        millions = value / 1e6
        return f"{millions:,.0f} million" if abs(millions) >= 99.5 else f"{millions:.3g} million"
    return f"{value:,.0f}" if abs(value) >= 9.95 else f"{value:.2g}"


def unmarked(text: str) -> Markup:
    """A text on one line, in which Markdown finds no markup and no end of a table's cell."""
    return Markup(re.sub(r"([\\`*\[\]#|])", r"\\\1", html.escape(" ".join(text.split()), quote=False)))
