"""What is checked before a verb works: rows of pretraining, where there is pretraining."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrainrl_jax.command_line import parse
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.stages import start
from pretrainrl_jax.stages.context import Context

CONFIGS = Path(__file__).parents[2] / "configs"


class Begun(Exception):
    """The workdir would be taken now."""


@pytest.fixture
def eight_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh: Any = SimpleNamespace(shape={"data": 1, "fsdp": 8, "tensor": 1})
    monkeypatch.setattr(start, "begin", lambda command: Context(command.config, Path(), mesh, ()))

    def held(*_: Any) -> None:
        raise Begun

    monkeypatch.setattr(start, "held", held)


@pytest.mark.usefixtures("eight_devices")
def test_rows_of_pretraining_divide_over_the_devices() -> None:
    with pytest.raises(InputError, match=r"pretrain\.rows is 2, and does not divide"):
        start.start(parse(["run", "--pretrain.rows=2"]), [])
    with pytest.raises(Begun):
        start.start(parse(["run", "--pretrain.rows=8"]), [])


@pytest.mark.usefixtures("eight_devices")
def test_where_nothing_is_pretrained_its_rows_are_not_looked_at() -> None:
    """As in every configuration that starts from a model: they would not run on eight GPUs."""
    with pytest.raises(Begun):
        start.start(parse(["run", "--config", str(CONFIGS / "popqa_qwen3_8b.py")]), [])
