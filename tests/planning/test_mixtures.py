"""Mixtures of experts: what is cut along their axis, and what each chip then does and holds, by hand."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import pytest
from jax.sharding import AbstractMesh

from pretrainrl_jax.command_line import parse
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.lora import Lora
from pretrainrl_jax.model.mesh import AXES, Cut
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.whole import copy_bytes, takes_copy
from pretrainrl_jax.planning.by_hand import ByHand, Packed, recomputed
from pretrainrl_jax.planning.chips import topology
from pretrainrl_jax.planning.planned import Program, Step
from pretrainrl_jax.planning.program import Collective
from pretrainrl_jax.planning.search import Case, candidates, meshes, rank
from pretrainrl_jax.planning.shapes import KNOWN
from pretrainrl_jax.planning.work import Sent, Work
from pretrainrl_jax.stages.plan import _sent

SHAPE = replace(KNOWN["Qwen3-30B-A3B"], dtype="bfloat16", remat="full")
SMALL = ModelShape(
    "qwen3_moe", 512, 256, 2, 4, 2, 128, 64, 1e4, 1e-6, False, "bfloat16", experts=8, experts_per_token=2
)


def hand(*sizes: int, shape: ModelShape = SHAPE) -> ByHand:
    """On a chip of a mesh data x fsdp x expert x tensor."""
    of = dict(zip(AXES, sizes, strict=True))
    return ByHand(shape, Cut(**of), "splash")


def step(one: ByHand) -> Step:
    """Two rows of each chip."""
    return Step((Packed(2 * one.cut.rows, 512, 512),))


def of_kind(work: Work, name: str) -> dict[str, Sent]:
    return {sent.kind: sent for sent in work.sent if sent.name == name}


@pytest.mark.parametrize("lora", [None, Lora(2, 4.0, ("query", "gate", "down"))])
@pytest.mark.parametrize("sizes", [(1, 2, 4, 1), (2, 1, 2, 2)])
def test_parameters_of_a_chip_are_those_that_lie_there(sizes: tuple[int, ...], lora: Lora | None) -> None:
    model = Model(replace(SMALL, lora=lora))
    mesh: Any = AbstractMesh(sizes, AXES)
    shardings, params = parameter_shardings(model, mesh), nn.unbox(model.abstract())
    parts = jax.tree.map(lambda x, sharding: 4 * int(jax.numpy.prod(jax.numpy.array(
        sharding.shard_shape(x.shape)))), params, shardings)  # fmt: skip
    by_hand = hand(*sizes, shape=model.shape)
    assert by_hand.parameters == pytest.approx(sum(jax.tree.leaves(parts)), rel=0.02)  # norms are whole


def test_rows_lie_along_the_experts_too() -> None:
    assert hand(2, 4, 8, 1).share(64) == 1
    assert hand(2, 4, 1, 8).share(64) == 8


def test_a_token_is_multiplied_with_its_own_experts_alone() -> None:
    """However they are cut, all chips together compute the same."""
    alone, cut = (Step((Packed(8, 512, 0),)).work(hand(*sizes)) for sizes in ((1, 1, 1, 1), (1, 1, 8, 1)))
    assert alone.flops == pytest.approx(8 * cut.flops)
    (experts,) = (op for op in cut.operations if op.name == "experts")
    assert experts.kernel
    passes = 3 + recomputed(SHAPE, False).products
    assert experts.flops == 2 * 3 * 2048 * 768 * 8 * 512 * passes


def test_a_token_that_is_read_is_multiplied_with_its_own_experts_alone() -> None:
    """Of a forward pass: as an MLP as wide as a token's experts, and the router."""
    tokens, sources = 512, 3
    mixture = hand(1, 1, 1, 1).forward(tokens, 100, sources, times=2)
    dense = hand(1, 1, 1, 1, shape=replace(SHAPE, family="qwen3", experts=0, experts_per_token=0, d_ff=6144))
    plain, routers = dense.forward(tokens, 100, sources, times=2), 2 * 48 * 2 * 2048 * 128 * tokens
    assert mixture.flops == pytest.approx(plain.flops + routers, rel=1e-9)
    (experts,) = (op for op in mixture.operations if op.name == "experts")
    assert experts.kernel
    assert (experts.flops, experts.times) == (2 * 3 * 2048 * 768 * 8 * tokens, 2 * 48)
    assert not any(op.name == "experts" for op in plain.operations)


def test_experts_weights_are_gathered_along_fsdp_and_their_tokens_along_their_axis() -> None:
    chip = hand(1, 8, 8, 1)
    work = step(chip).work(chip)
    weights = of_kind(work, "layers' weights")["all-gather"]
    attention = 2048 * (2 * 36 * 128 + 128)
    assert weights.bytes == 2 * (attention + 16 * 3 * 2048 * 768)
    assert (weights.group, weights.stride) == (8, 8)
    tokens = of_kind(work, "experts' tokens")
    assert {sent.bytes for sent in tokens.values()} == {2.0 * 8 * 2 * 512 * 2048}
    assert {(sent.group, sent.stride, sent.waited) for sent in tokens.values()} == {(8, 1, True)}
    assert (tokens["all-gather"].times, tokens["reduce-scatter"].times) == (3 * 48, 2 * 48)
    summed = of_kind(work, "gradients")["all-reduce"]  # of all but the experts
    assert summed.bytes == 4 * (48 * attention + 2 * 151936 * 2048) / 8
    whole = hand(1, 64, 1, 1)
    assert not of_kind(step(whole).work(whole), "experts' tokens")


def test_a_chip_holds_the_choices_of_its_group() -> None:
    hands = [hand(1, 8, expert, 1) for expert in (1, 8)]
    few, many = (step(one).working(one) for one in hands)
    held = [one.learned for one in hands]
    assert held[1] < held[0] / 4
    assert many - held[1] > few - held[0] - 2 * 3 * 2 * 112 * 3 * 2048 * 768  # fewer weights, more tokens
    working = [hand(1, 1, expert, 1).working(1024, 512, True) for expert in (1, 8)]
    assert working[1] - working[0] == 2 * 1024 * 7 * 8 * (3 * 2048 + 3 * 768)


def test_a_copy_to_decode_from_has_a_devices_own_experts() -> None:
    whole, own = copy_bytes(SHAPE, Cut()), copy_bytes(SHAPE, Cut(expert=8))
    assert whole - own == 2 * 48 * 112 * 3 * 2048 * 768
    room = 0.9 * whole
    assert takes_copy(SHAPE, Cut(fsdp=8, expert=8), room)
    assert not takes_copy(SHAPE, Cut(fsdp=8), room)
    copied = hand(1, 8, 8, 1, shape=SHAPE)
    copied = replace(copied, room=room)
    assert copied.copy == own
    assert parameters(SHAPE, 8).total < parameters(SHAPE).total / 5


def test_experts_are_searched_where_there_are_some() -> None:
    assert {cut.expert for cut in meshes(SHAPE, 8)} == {1, 2, 4, 8}
    assert {cut.expert for cut in meshes(KNOWN["Qwen3-4B-Base"], 8)} == {1}
    assert all(cut.rows * cut.tensor == 8 for cut in meshes(SHAPE, 8))
    load = Step((Packed(64, 512, 512),))
    one = hand(1, 1, 1, 8)
    step = Program(
        "step", "train.grad_accum_steps", lambda: None, load, 64 * 512.0, 3e10, 200.0, 200.0,
        hand=one, parameters=one.parameters, learned=one.parameters,
    )  # fmt: skip
    case = Case(one, [step], topology("v5p:2x2x2"))
    every = [one for one in candidates(case, ["full"]) if one.cut.tensor == 1 and one.microsteps == 1]
    cut = next(one for one in every if (one.cut.fsdp, one.cut.expert) == (2, 4))
    whole = next(one for one in every if (one.cut.fsdp, one.cut.expert) == (1, 1))
    assert rank(case, cut).memory < rank(case, whole).memory
    command = parse(["plan", "--topology=v5p:2x2x2", *cut.flags("train").split()])
    mesh = command.config.mesh
    assert (mesh.data, mesh.fsdp, mesh.expert, mesh.tensor) == (1, 2, 4, 1)


@pytest.mark.parametrize(
    ("kind", "group", "waited"),
    [
        ("all-gather", range(0, 16, 2), True),
        ("all-reduce", range(0, 16, 2), False),  # of gradients
        ("all-gather", range(0, 128, 16), False),  # of weights
        ("all-reduce", range(2), True),  # of the tensor axis
    ],
)
def test_what_the_next_operation_waits_for(kind: str, group: range, waited: bool) -> None:
    one = Collective("", "", kind, "bf16", 8, tuple(group), 1)
    assert _sent(one, Cut(1, 4, 2, 8)).waited is waited
