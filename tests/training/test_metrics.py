"""metrics.jsonl and TensorBoard events: lines that can always be read, and each step once."""

import json
import math
import time
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from pretrainrl_jax.training.metrics import MetricsWriter


def lines(workdir: Path) -> list[dict]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def steps(workdir: Path, stage: str) -> list[int]:
    return [line["step"] for line in lines(workdir) if line["stage"] == stage]


def events(folder: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every event that TensorBoard shows, in the order of the files.

    Where a session starts, TensorBoard drops what older files have of that step and later ones.
    """
    scalars: list[tuple[int, str, float]] = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            if event.HasField("session_log"):
                scalars = [seen for seen in scalars if seen[0] < event.step]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += size + 16
    return scalars


def write(workdir: Path, stage: str, steps: range, start: int = 0, **metrics: float) -> None:
    with MetricsWriter(workdir, stage, start) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 8, **metrics})


def test_a_line_is_an_object_with_stage_step_and_metrics(tmp_path: Path) -> None:
    write(tmp_path, "train/ntp", range(1, 3), grad_norm=1e-30)
    assert lines(tmp_path) == [
        {"stage": "train/ntp", "step": 1, "loss": 0.125, "grad_norm": 1e-30},
        {"stage": "train/ntp", "step": 2, "loss": 0.25, "grad_norm": 1e-30},
    ]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, "pretrain") as writer:
        writer.write(1, {"loss": 2.0})
        assert lines(tmp_path) == [{"stage": "pretrain", "step": 1, "loss": 2.0}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(value: float, tmp_path: Path) -> None:
    write(tmp_path, "pretrain", range(1, 2), other=value, zero=0.0)
    assert lines(tmp_path) == [{"stage": "pretrain", "step": 1, "loss": 0.125, "other": None, "zero": 0.0}]


def test_a_stage_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, "pretrain", range(1, 4))
    write(tmp_path, "train/ntp", range(1, 8))
    write(tmp_path, "train/ntp_answer", range(1, 8))
    write(tmp_path, "train/ntp", range(5, 10), start=4, again=1.0)
    assert steps(tmp_path, "train/ntp") == list(range(1, 10))
    assert [line["step"] for line in lines(tmp_path) if "again" in line] == list(range(5, 10))
    assert steps(tmp_path, "pretrain") == [1, 2, 3]
    assert steps(tmp_path, "train/ntp_answer") == list(range(1, 8))


def test_a_stage_that_starts_again_leaves_nothing_of_before(tmp_path: Path) -> None:
    write(tmp_path, "train/ntp", range(8))  # what stands at 0 was found before the first step
    write(tmp_path, "train/ntp", range(2, 4), again=1.0)
    assert steps(tmp_path, "train/ntp") == [2, 3]


@pytest.mark.parametrize(
    "left", [b'{"stage": "pretrain", "ste', b"\0\0\0\n", b"\xff\xfe\n", b"[1]\n", b'{"stage": 1}\n']
)
@pytest.mark.parametrize("stage", ["pretrain", "train/ntp"])
def test_a_line_cut_off_when_the_machine_went_down_is_removed(
    stage: str, left: bytes, tmp_path: Path
) -> None:
    write(tmp_path, "pretrain", range(1, 4))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(left)
    write(tmp_path, stage, range(3, 5), start=2)
    assert steps(tmp_path, stage)[-2:] == [3, 4]
    assert steps(tmp_path, "pretrain")[:3] == [1, 2, 3]


def test_a_line_is_whole_even_when_the_stage_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with MetricsWriter(tmp_path, "pretrain") as writer:
            writer.write(1, {"loss": math.nan})
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        fail()
    assert lines(tmp_path) == [{"stage": "pretrain", "step": 1, "loss": None}]
    assert [(step, name) for step, name, _ in events(tmp_path / "tensorboard" / "pretrain")] == [(1, "loss")]


def test_events_hold_the_same_metrics_by_stage(tmp_path: Path) -> None:
    write(tmp_path, "pretrain", range(1, 3), grad_norm=3.0)
    write(tmp_path, "train/ntp", range(1, 2))
    assert events(tmp_path / "tensorboard" / "pretrain") == [
        (1, "loss", 0.125),
        (1, "grad_norm", 3.0),
        (2, "loss", 0.25),
        (2, "grad_norm", 3.0),
    ]
    assert events(tmp_path / "tensorboard" / "train" / "ntp") == [(1, "loss", 0.125)]


@pytest.mark.parametrize("start", [0, 3])
def test_events_of_a_stage_that_goes_on_show_each_step_once(start: int, tmp_path: Path) -> None:
    write(tmp_path, "pretrain", range(1, 6))
    time.sleep(1.1)  # the files are named after the second
    write(tmp_path, "pretrain", range(start + 1, 8), start=start)
    shown = events(tmp_path / "tensorboard" / "pretrain")
    assert shown == [(step, "loss", step / 8) for step in range(1, 8)]
