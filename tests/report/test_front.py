"""The front of a sweep: means with intervals, which rows no other beats, the picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import OBJECTIVES, AnchorTermConfig
from pretrainrl_jax.report.sweep import Row, chosen, estimate, on_front, save_front, table
from pretrainrl_jax.report.systems import Systems

KNOWN = Systems(OBJECTIVES | {"kept": replace(OBJECTIVES["ntp"], label="Kept", anchor=AnchorTermConfig(1.0))})


def row(system: str, passes: int, accs: list[float], rises: list[float | None]) -> Row:
    seeds = {
        str(seed): {"acc": acc, "forgetting": rise, "text_nll": 2.0, "device_seconds": 3.0, "groups": {}}
        for seed, (acc, rise) in enumerate(zip(accs, rises, strict=True))
    }
    return Row(system, {"train.passes": passes}, seeds)


def test_intervals_are_students() -> None:
    found = estimate(row("ntp", 1, [0.3, 0.5, 0.4], [0.1, 0.2, 0.6]), "acc")
    assert found is not None
    assert found.mean == pytest.approx(40)
    assert found.half == pytest.approx(
        4.302652729 * np.std([30, 50, 40], ddof=1) / np.sqrt(3)
    )  # t, 2 degrees
    one = estimate(row("ntp", 1, [0.3], [0.1]), "forgetting")
    assert one == (0.1, None)
    assert estimate(row("ntp", 1, [0.3], [None]), "forgetting") is None


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_brute_force_finds(points: list[tuple[int, int]]) -> None:
    rows = [row("ntp", 1, [acc / 10], [rise / 10]) for acc, rise in points]
    expected = [
        not any(a >= acc and r <= rise and (a > acc or r < rise) for a, r in points) for acc, rise in points
    ]
    assert on_front(rows) == expected


def test_what_was_not_measured_is_on_no_front() -> None:
    rows = [row("ntp", 1, [0.9], [None]), row("ntp", 3, [0.1], [0.5])]
    assert on_front(rows) == [False, True]


def test_table_and_picture(tmp_path: Path) -> None:
    rows = [
        Row("base", {}, {"0": {"acc": 0.1, "text_nll": 2.0, "groups": {}}}),
        row("ntp", 1, [0.3, 0.4], [0.4, 0.5]),
        row("ntp", 3, [0.5, 0.6], [1.4, 1.5]),
        row("kept", 1, [0.35, 0.4], [0.0, 0.1]),
    ]
    shown = table(rows, ["train.passes"], KNOWN)
    assert "95 % intervals of 2 seeds" in shown
    assert "| NTP | 1 |" in shown  # beaten by the one that is kept
    assert "| **NTP** | 3 |" in shown
    assert "| **Kept** | 1 | 37.5 ± 31.8 | 0.05 ± 0.64 |" in shown
    assert "| base |" in shown
    assert "paraphrase" not in shown
    assert save_front(tmp_path / "front.png", rows, KNOWN)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    unmeasured = [replace(one, seeds={"0": {"acc": 0.3, "groups": {}}}) for one in rows]
    assert not save_front(tmp_path / "none.png", unmeasured, KNOWN)
    assert not (tmp_path / "none.png").exists()


def test_wordings_are_compared_with_the_same_wordings() -> None:
    """One of two rows was asked in held-out wordings, too, which are harder: the trained ones decide."""
    reworded, plain = row("ntp", 1, [0.9], [0.1]), row("ntp", 3, [0.5], [0.1])
    reworded.seeds["0"]["groups"]["paraphrase"] = {"acc": 0.2, "count": 100}
    said = chosen([reworded, plain], ["train.passes"], KNOWN)
    assert "train.passes 1, chosen on trained wordings (90.0%, the best 90.0%)" in said


def test_the_last_of_what_is_recommended_is_it_and_rewards_are_no_control() -> None:
    assert KNOWN.recommended(["ntp", "anchored"]) == "anchored"
    assert KNOWN.recommended(["ntp", "dpo"]) is None
    two = Systems(OBJECTIVES | {"own": replace(OBJECTIVES["ntp"], recommended=True)})
    assert two.recommended(["own", "anchored"]) == two.method(["own", "anchored"]) == "own"
    assert "rlvr" not in KNOWN.controls("pretrainrl")
