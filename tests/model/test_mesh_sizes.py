"""Sizes of the mesh: what is inferred, and what is refused."""

import json
import math
from dataclasses import replace

import pytest
from helpers.command_line import complaint, python
from helpers.models_and_trees import small_shape
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import AXES, Rules, check_batch, check_model, round_up_rows

MESHES = """
import json, jax, sys
jax.config.update("jax_num_cpu_devices", 8)
from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import make_mesh

found = []
for sizes in json.loads(sys.stdin.read()):
    try:
        found.append(list(make_mesh(MeshConfig(*sizes)).shape.values()))
    except InputError as error:
        found.append(str(error))
print(json.dumps(found))
"""
SHAPE = replace(small_shape(), vocabulary=600, d_model=32, heads=4, kv_heads=2, head_dim=8, d_ff=48)


def mesh(data: int, fsdp: int, tensor: int, expert: int = 1) -> AbstractMesh:
    return AbstractMesh((data, fsdp, expert, tensor), AXES)


def refusal(check, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        check(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_size_is_inferred_and_what_does_not_fit_is_refused():
    asked = {
        (-1, 1, 1): [8, 1, 1, 1],
        (-1, 2, 2): [2, 2, 1, 2],
        (1, -1, 4): [1, 2, 1, 4],
        (2, 2, -1): [2, 2, 1, 2],
        (1, 1, 8): [1, 1, 1, 8],
        (1, 2, 1, 4): [1, 2, 4, 1],
        (1, 2, 1, 2): "mesh 1 x 2 x 2 x 1 (data x fsdp x expert x tensor) needs 4 devices",
        (-1, 3, 1): "mesh 2 x 3 x 1 x 1 (data x fsdp x expert x tensor) needs 6 devices and 8 are here",
        (-1, 1, 16): "needs 16 devices and 8 are here",
        (2, 2, 1): "mesh 2 x 2 x 1 x 1 (data x fsdp x expert x tensor) needs 4 devices and 8 are here",
    }
    ran = python("-c", MESHES, text=json.dumps(list(asked)))
    assert ran.code == 0, ran.err
    answered = dict(zip(asked, json.loads(ran.out), strict=True))
    for sizes, wanted in asked.items():
        if isinstance(wanted, list):
            assert answered[sizes] == wanted
        else:
            assert wanted in answered[sizes]


@pytest.mark.parametrize("wrong", [{"vocabulary": "data"}, {"vocabulary": "expert"}, {"model": "tensor"}])
def test_rules_that_no_model_can_lie_by_are_refused(wrong: dict[str, str]):
    with pytest.raises(ValueError, match="lies along an axis of the rows, or model along another one"):
        Rules(**wrong)


def test_a_mesh_that_does_not_divide_the_model_is_refused():
    check_model(SHAPE, mesh(1, 32, 2))
    said = refusal(check_model, SHAPE, mesh(1, 1, 3))
    assert said.startswith("mesh.tensor is 3 and does not divide the model's 4 heads, 2 kv_heads: ")
    assert said.endswith("make it a divisor of 2")
    said = refusal(check_model, replace(SHAPE, heads=8, kv_heads=8, vocabulary=602), mesh(1, 1, 4))
    assert "4 and does not divide the model's 602 rows of vocabulary" in said
    said = refusal(check_model, SHAPE, mesh(1, 12, 1))
    assert "mesh.fsdp is 12 and does not divide the model's 32 d_model" in said
    assert said.endswith("make it a divisor of 32")


def test_a_mesh_that_does_not_divide_the_batch_is_refused():
    check_batch("pretrain.rows", 24, mesh(4, 2, 7))
    check_batch("pretrain.rows", 24, mesh(4, 1, 1), 3)
    said = refusal(check_batch, "pretrain.rows", 12, mesh(4, 2, 1))
    assert said.startswith("pretrain.rows is 12, and does not divide over data x fsdp x expert = 8: ")
    assert said.endswith("make it a multiple of 8, or change the mesh")
    said = refusal(check_batch, "pretrain.rows", 12, mesh(4, 1, 1), 2)
    assert "= 4 in 2 microsteps: make it a multiple of 8" in said
    assert "multiple of 16" in refusal(check_batch, "pretrain.rows", 2, mesh(16, 1, 1))
    assert "multiple of 8" in refusal(check_batch, "pretrain.rows", 12, mesh(2, 1, 7, 4))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 100))
def test_rows_are_rounded_up_to_what_divides(data: int, fsdp: int, rows: int):
    rounded = round_up_rows(mesh(data, fsdp, 3), rows)  # type: ignore[arg-type]
    assert rounded % (data * fsdp) == 0
    assert 0 <= rounded - rows < data * fsdp
    assert rounded == math.ceil(rows / (data * fsdp)) * data * fsdp


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("--mesh.data=0", "mesh.data=0, mesh.fsdp=1, mesh.tensor=1, mesh.expert=1"),
        ("--mesh.fsdp=-2", "mesh.data=-1, mesh.fsdp=-2, mesh.tensor=1, mesh.expert=1"),
        ("--mesh.tensor=-1", "mesh.data=-1, mesh.fsdp=1, mesh.tensor=-1, mesh.expert=1"),  # data is, too
        ("--mesh.expert=0", "mesh.data=-1, mesh.fsdp=1, mesh.tensor=1, mesh.expert=0"),
    ],
)
def test_sizes_that_mean_nothing_are_refused_before_jax_is_imported(setting: str, shown: str):
    ran = python("-X", "importtime", "-m", "pretrainrl_jax.main", "pretrain", setting)
    said = [line for line in ran.err.splitlines() if not line.startswith("import time:")]
    assert ran.code == 2
    assert complaint(ran._replace(err="\n".join(said) + "\n")).startswith(
        f"{shown}: each must be 1 or more, or one of them -1"
    )
    assert "| jax\n" not in ran.err
