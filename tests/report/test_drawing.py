import base64
import re

import numpy as np

from pretrainrl_jax.report.drawing import BASE, Line, plot


def width(labels: list[str]) -> float:
    """Of a picture with a legend of these, in points."""
    points = np.array([0.0, 1.0])
    picture = plot([Line(label, BASE, points, points) for label in labels], (3.0, 3.0), "x", "y")
    assert picture
    found = re.search(r'<svg[^>]* width="([\d.]+)pt"', base64.b64decode(picture.split(",")[1]).decode())
    assert found
    return float(found[1])


def test_a_legend_wider_than_its_chart_is_not_cut():
    assert width(["short"]) < 3.2 * 72
    assert width(["a label of which three do not fit"] * 3) > 6 * 72
