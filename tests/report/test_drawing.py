import base64
import re

from pretrainrl_jax.report.drawing import chart


def width(labels: list[str]) -> float:
    """Of a picture with a legend of these, in points."""

    def draw(axes):
        for label in labels:
            axes.plot([0, 1], [0, 1], label=label)

    picture = base64.b64decode(chart((3.0, 3.0), "x", "y", draw).split(",")[1]).decode()
    found = re.search(r'<svg[^>]* width="([\d.]+)pt"', picture)
    assert found
    return float(found[1])


def test_a_legend_wider_than_its_chart_is_not_cut():
    assert width(["short"]) < 3.2 * 72
    assert width(["a label of which three do not fit"] * 3) > 6 * 72
