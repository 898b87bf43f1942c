"""Large models on meshes, as they are compiled: what a device is told by others, and what it holds."""

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from helpers import large_programs
from helpers.compiled_programs import Loop, Program
from helpers.eight_devices import asked_meshes, results
from helpers.large_programs import BATCH, BEAMS, GROWN, MESHES, PROMPT, SAMPLES, SHAPE, VOCABULARY, WIDTH

from pretrainrl_jax.decoding.best_tokens import BLOCK, GROUP
from pretrainrl_jax.model.vocabulary import block_size

AXES = ("data", "fsdp", "tensor")
TABLE = VOCABULARY * WIDTH  # elements of the embedding, and of the head
# Bytes of temporaries, in units of a whole table in bfloat16. They were measured, and are gradients of the
# device's own part for the most part; half a table more is allowed, which is less than any whole one.
TEMPORARIES = {
    "2x1x4": {"step": 2.96, "accumulating": 4.12, "search": 0.79, "draw": 0.5, "first": 2.14},
    "2x2x2": {"step": 2.96, "accumulating": 4.6, "search": 1.07, "draw": 0.89, "first": 2.14},
    "1x8x1": {"step": 2.17, "accumulating": 2.31, "search": 0.84, "draw": 0.78, "first": 1.07},
}
PROGRAMS = ("step", "accumulating", "search", "draw", "first")
FORWARD, BACKWARD = "/jvp(Decoder)/while", "/transpose(jvp(Decoder))/while"  # the step's loops over layers


def on(meshes: Iterable[str]) -> pytest.MarkDecorator:
    """A test on each of these meshes. Of the axes along which one cuts, others cut along each: it is slow."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "mesh", [pytest.param(mesh, marks=slow) if mesh == "1x8x1" else mesh for mesh in meshes]
    )


each_mesh = on(MESHES)


@pytest.fixture(scope="module")
def compiled_large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Of each mesh that is asked about its programs."""
    meshes = asked_meshes(request, MESHES)
    return results(large_programs, tmp_path_factory.mktemp("large") / "programs", *meshes)


# Every way in which one loop may hide what it sends: results in a tuple, asynchronous, in what it calls.
TEXT = """
%add.1 (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum.1 = f32[] add(%x, %y)
}

%wrapped (p.1: f32[8,4]) -> f32[2,4] {
  ROOT %scattered = f32[2,4]{1,0} reduce-scatter(%p.1), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add.1
}

%body.3 (p.2: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %a.1 = (f32[3,5]{1,0:T(8,128)}, /*index=1*/bf16[]) all-reduce(%p.2), replica_groups={{0,1},{2,3}}, to_apply=%add.1
  %b.1 = ((f32[8,4]), f32[2,4], s32[]) async-start(%p.2), calls=%wrapped
  %c.1 = (f32[6], f32[24]) all-gather-start(%p.2), replica_groups=mesh['a'=2,'b'=2,'c'=2] {'c','a'}
  %e.1 = f32[24] all-gather-done(%c.1)
  ROOT %d.1 = s32[] collective-permute(%p.2), source_target_pairs={{0,1},{1,0}}
}

%condition.3 (p.3: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%p.3, %p.3), direction=LT
}

ENTRY %main.9 (p.4: (s32[], f32[8,4])) -> f32[] {
  %while.7 = (s32[], f32[8,4]{1,0}) while(%p.4), condition=%condition.3, body=%body.3, metadata={op_name="a/while"}
  ROOT %psum.48 = f32[7] all-reduce(%p.4), replica_groups={}, to_apply=%add.1, metadata={op_name="a/psum"}
}
"""  # noqa: E501


def test_programs_are_read() -> None:
    """From a text that has every form in which HLO writes an exchange, and groups of devices."""
    read = Program(TEXT)
    (loop,) = read.loops("while")
    assert (loop.name, loop.carries) == ("a/while", ((), (8, 4)))
    assert sorted((one.kind, one.shapes, sorted(one.groups)) for one in loop.collectives) == [
        ("all-gather", ((6,), (24,)), [(0, 1, 4, 5), (2, 3, 6, 7)]),
        ("all-reduce", ((3, 5), ()), [(0, 1), (2, 3)]),
        ("collective-permute", ((),), [(0, 1)]),
        ("reduce-scatter", ((2, 4),), [(0, 2, 4, 6), (1, 3, 5, 7)]),
    ]
    assert [(one.kind, one.shapes, one.name) for one in read.outside("while")] == [
        ("all-reduce", ((7,),), "a/psum")
    ]
    assert read.loops("other") == []
    assert read.largest() == 32


def program(compiled: dict[str, Any], mesh: str, name: str) -> Program:
    return Program(compiled[mesh][name]["text"])


def parts(mesh: str, *axes: str) -> int:
    """Devices along these axes."""
    return math.prod(MESHES[mesh][AXES.index(axis)] for axis in axes)


def along(mesh: str, axis: str) -> frozenset[tuple[int, ...]]:
    """The groups of devices that lie along an axis."""
    ids = np.moveaxis(np.arange(8).reshape(MESHES[mesh]), AXES.index(axis), -1)
    return frozenset(tuple(row) for row in ids.reshape(-1, ids.shape[-1]).tolist())


def exchanged(loop: Loop) -> list[tuple[str, tuple[tuple[int, ...], ...], frozenset]]:
    return sorted((one.kind, one.shapes, one.groups) for one in loop.collectives)


@pytest.mark.slow
@each_mesh
def test_blocks_of_the_vocabulary_are_walked_alone(compiled_large: dict[str, Any], mesh: str) -> None:
    """No device hears of another within a loop over blocks, but for the block itself where fsdp cuts it.

    Then it is gathered along the model axis, and the gradient of the head's rows is scattered likewise.
    """
    cut, fsdp = parts(mesh, "fsdp") > 1, along(mesh, "fsdp")

    def gathered(block: int) -> tuple[str, tuple[tuple[int, ...], ...], frozenset]:
        return "all-gather", ((block, WIDTH),), fsdp

    block = block_size(WIDTH)
    scattered = "reduce-scatter", ((block, WIDTH // parts(mesh, "fsdp")),), fsdp
    step = program(compiled_large, mesh, "step")
    (forward,) = step.loops("/jvp()/shard_map/vocabulary/while")
    (backward,) = step.loops("/transpose(jvp())/shard_map/vocabulary/while")
    assert exchanged(forward) == [gathered(block)] * cut
    assert exchanged(backward) == [gathered(block), scattered] * cut
    search = program(compiled_large, mesh, "search")
    prompted, later = search.loops("vocabulary/while")  # after the prompt, and after each step's tokens
    assert exchanged(prompted) == exchanged(later) == [gathered(BLOCK)] * cut
    assert len(step.loops("vocabulary/while")) == 2  # and no others


@each_mesh
def test_a_search_sends_no_logits(compiled_large: dict[str, Any], mesh: str) -> None:
    """Of each step's logits a device tells the others the best few of each beam, when its fold is done."""
    search = program(compiled_large, mesh, "search")
    rows, tensor = BATCH // parts(mesh, "data", "fsdp"), parts(mesh, "tensor")
    (steps,) = search.loops("jit(beam_search)/while")
    others = [one for one in steps.collectives if not re.search("vocabulary|layers|groups", one.name)]
    gathered = [one for one in others if one.shapes == ((rows, BEAMS, BEAMS * tensor),)]
    if tensor > 1:  # their logits, and which tokens they are
        assert [(one.kind, one.groups) for one in gathered] == [("all-gather", along(mesh, "tensor"))] * 2
    assert others
    largest = max(math.prod(shape) for one in others for shape in one.shapes)
    assert largest <= rows * BEAMS * WIDTH < rows * BEAMS * VOCABULARY // tensor


@each_mesh
def test_rows_of_the_best_groups_alone_are_sent(compiled_large: dict[str, Any], mesh: str) -> None:
    """Where fsdp cuts the head a device asks for the rows of one group of each beam at a time."""
    of_group, fsdp = BATCH // parts(mesh, "data", "fsdp") * GROUP, parts(mesh, "fsdp")
    loops = program(compiled_large, mesh, "search").loops("groups/while")  # after the prompt, and each token
    sent = [{one.kind: sum(map(math.prod, one.shapes)) for one in loop.collectives} for loop in loops]
    branches = (1, BEAMS)
    wanted = [{"all-gather": n * of_group * fsdp, "all-to-all": n * of_group * WIDTH} for n in branches]
    assert sorted(sent, key=str) == sorted(wanted if fsdp > 1 else [{}, {}], key=str)
    for loop in loops:
        assert {one.groups for one in loop.collectives} <= {along(mesh, "fsdp")}


@on([name for name in MESHES if parts(name, "fsdp") > 1])
def test_a_search_of_copied_weights_gathers_them_once(compiled_large: dict[str, Any], mesh: str) -> None:
    """In the loops over tokens and over blocks of the vocabulary nobody hears of any weight."""
    search = program(compiled_large, mesh, "copying")
    (steps,) = search.loops("jit(beam_search)/while")
    rows = BATCH // parts(mesh, "data", "fsdp")
    assert max(math.prod(shape) for one in steps.collectives for shape in one.shapes) <= rows * BEAMS * WIDTH
    assert all(not exchanged(loop) for loop in search.loops("vocabulary/while"))
    whole = TABLE // parts(mesh, "tensor")
    gathered = [one for one in search.outside("while") if any(math.prod(s) == whole for s in one.shapes)]
    once = [(one.kind, one.groups) for one in gathered]
    assert once == [("all-gather", along(mesh, "fsdp"))] * 2  # embedding and head


@each_mesh
def test_what_devices_tell_each_other_is_found(compiled_large: dict[str, Any], mesh: str) -> None:
    """The loops over layers hold what they must, so the tests beside this one would see it elsewhere."""
    step = program(compiled_large, mesh, "step")
    for name in (FORWARD, BACKWARD):
        (loop,) = step.loops(name)
        kinds = {(one.kind, one.groups) for one in loop.collectives}
        if parts(mesh, "tensor") > 1:  # attention and MLP each add up what their parts give
            assert ("all-reduce", along(mesh, "tensor")) in kinds
        if parts(mesh, "fsdp") > 1:  # each layer's weights come together when it is its turn
            assert ("all-gather", along(mesh, "fsdp")) in kinds


@pytest.mark.parametrize("name", PROGRAMS)
@each_mesh
def test_no_device_holds_more_of_a_table_than_its_part(
    compiled_large: dict[str, Any], mesh: str, name: str
) -> None:
    """Embedding, head, gradients and moments: nothing is as large as what two devices have of one of them."""
    own = TABLE // parts(mesh, "fsdp", "tensor")
    assert program(compiled_large, mesh, name).largest() == own
    sizes = compiled_large[mesh][name]
    allowed = (TEMPORARIES[mesh][name] + 0.5) * 2 * TABLE
    assert sizes["temporaries"] < allowed, f"{sizes['temporaries'] / (2 * TABLE):.2f} tables"


@each_mesh
def test_a_device_is_given_its_part_of_the_state_and_keeps_it(
    compiled_large: dict[str, Any], mesh: str
) -> None:
    """Parameters and both moments are cut along fsdp and tensor, and updated in place."""
    program = compiled_large[mesh]
    count = parts(mesh, "fsdp", "tensor")
    layer = 2 * WIDTH * (SHAPE.heads + SHAPE.kv_heads) * SHAPE.head_dim + 3 * WIDTH * SHAPE.d_ff
    size_of_all = 4 * (2 * TABLE + SHAPE.layers * layer)  # norms are less than a thousandth of it
    assert program["parameters"] == pytest.approx(size_of_all / count, rel=1e-3)
    assert program["state"] == pytest.approx(3 * size_of_all / count, rel=1e-3)
    assert program["step"]["arguments"] == pytest.approx(program["step"]["expected"], rel=1e-3)
    assert program["search"]["arguments"] == pytest.approx(program["search"]["expected"], rel=1e-3)
    assert program["step"]["kept"] == program["state"]


@each_mesh
def test_each_layers_gradient_is_summed_and_cut_before_the_next_one(
    compiled_large: dict[str, Any], mesh: str
) -> None:
    """Within the backward loop: what it collects over layers is the device's part, and final."""
    step = program(compiled_large, mesh, "step")
    (loop,) = step.loops(BACKWARD)
    fsdp, tensor = parts(mesh, "fsdp"), parts(mesh, "tensor")
    s, inner = SHAPE, SHAPE.head_dim
    weights = [s.heads * inner, s.kv_heads * inner, s.kv_heads * inner, s.heads * inner, *[s.d_ff] * 3]
    wanted = sorted(WIDTH * width // tensor for width in weights)  # gathered over fsdp, as it is computed
    own = sorted(size // fsdp for size in wanted)

    sizes = [
        math.prod(shape)
        for one in loop.collectives
        if one.kind in ("all-reduce", "reduce-scatter") and one.groups != along(mesh, "tensor")
        for shape in one.shapes
    ]
    summed = sorted(size for size in sizes if size >= own[0])  # norms are smaller
    # Over both axes at once, or over fsdp first and of the device's part over data.
    assert summed in (wanted, own, sorted(wanted + own))
    stacked = [math.prod(shape) for shape in loop.carries if shape[:1] == (SHAPE.layers,)]
    assert max(stacked) == SHAPE.layers * own[-1]
    assert not [one for one in step.outside("while") for shape in one.shapes if shape[:1] == (SHAPE.layers,)]


@each_mesh
def test_caches_lie_over_rows_and_heads(compiled_large: dict[str, Any], mesh: str) -> None:
    """Keys and values of what beams and samples have grown, for each device's rows and heads alone."""
    rows, heads = BATCH // parts(mesh, "data", "fsdp"), SHAPE.kv_heads // parts(mesh, "tensor")
    inner = heads, SHAPE.head_dim
    grown = {"beam_search": (GROWN * BEAMS,), "sample": (SAMPLES, GROWN)}  # a sample has a cache of its own
    for name, (function, size) in zip(("search", "draw"), grown.items(), strict=True):
        (steps,) = program(compiled_large, mesh, name).loops(f"jit({function})/while")
        caches = [(SHAPE.layers, rows, *places, *inner) for places in (size, (PROMPT,))]
        carried = [shape for shape in steps.carries if len(shape) >= 5]
        assert sorted(carried) == sorted(caches * 2)
