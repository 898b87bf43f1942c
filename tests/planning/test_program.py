"""What a compiled program does, by its text: compiled programs against closed forms, and written lines."""

import itertools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.planning.program import Collective, Program, read_program

KNOWN = re.compile(r',?"known_trip_count":\{"n":"\d+"\}')


def text_of(function: Callable[..., Any], *sizes: tuple[int, ...]) -> str:
    """The program of a function of arrays of these sizes."""
    arrays = [jax.ShapeDtypeStruct(each, jnp.float32) for each in sizes]
    return jax.jit(function).lower(*arrays).compile().as_text() or ""


def read(function: Callable[..., Any], *sizes: tuple[int, ...]) -> Program:
    """What it does, which is the same whether or not the compiler says how often loops turn."""
    text = text_of(function, *sizes)
    program = read_program(text)
    assert read_program(KNOWN.sub("", text)) == program
    assert not program.unknown_loops
    return program


def scanned(turns: int, x: jax.Array, w: jax.Array) -> jax.Array:
    """A product a turn."""
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=turns)[0]


def nested(x: jax.Array, w: jax.Array) -> jax.Array:
    """Three turns of seven."""
    return jax.lax.fori_loop(0, 3, lambda _, x: scanned(7, x, w), x).sum()


# Compiled for one device.


def test_product() -> None:
    """One product, and nothing else."""
    program = read(lambda x, y: x @ y, (30, 40), (40, 50))
    assert program.flops == 2 * 30 * 40 * 50
    assert [one.times for one in program.operations] == [1]
    assert program.hbm_bytes == 4 * (30 * 40 + 40 * 50 + 30 * 50)
    assert (program.collectives, program.loops) == ((), ())


def test_batches() -> None:
    """Axes of batches multiply, whatever their order."""
    program = read(lambda q, k: jnp.einsum("btkgd,bskd->bkgts", q, k), (2, 12, 3, 5, 16), (2, 20, 3, 16))
    assert program.flops == 2 * 2 * 12 * 20 * 3 * 5 * 16


def test_convolution() -> None:
    """One that is meant as such: what falls on padding does not count."""

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), [(2, 2)], dimension_numbers=("NWC", "WIO", "NWC")
        )

    # Of 10 positions and a window of 5, one and two at either end meet padding.
    assert read(convolve, (4, 10, 3), (5, 3, 7)).flops == 2 * 4 * 3 * 7 * (10 * 5 - 2 * (1 + 2))


def test_nested_loops() -> None:
    """Turns multiply, and an op_name tells whose they are."""
    program = read(nested, (8, 16), (16, 16))
    assert program.flops == 3 * 7 * 2 * 8 * 16 * 16
    assert [loop.trips for loop in program.loops] == [3, 7]
    (product,) = (one for one in program.operations if one.flops)
    assert product.times == 21
    assert product.flops == 2 * 8 * 16 * 16
    assert product.name.startswith("jit(nested)/while/body/closed_call")


def test_gradient() -> None:
    """Each product has two gradients."""
    program = read(jax.grad(nested, argnums=(0, 1)), (8, 16), (16, 16))
    assert program.flops == 3 * 3 * 7 * 2 * 8 * 16 * 16
    assert sorted(loop.trips or 0 for loop in program.loops) == [3, 3, 7, 7]


def test_conditional() -> None:
    """The largest branch counts."""

    def chosen(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.switch(
            jnp.int32(x[0, 0]), [lambda: x, lambda: scanned(5, x, w), lambda: scanned(2, x, w)]
        )

    assert read(chosen, (8, 16), (16, 16)).flops == 5 * 2 * 8 * 16 * 16


def test_loops_of_one_name_that_may_end_early_share_their_turns() -> None:
    """As a search whose last questions go on alone: the first loop, of 8 rows, is given all turns."""

    def until(rows: int, carry: tuple[jax.Array, jax.Array], w: jax.Array) -> tuple[jax.Array, jax.Array]:
        def goes_on(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            return (carry[0] < 7) & (carry[1].sum() > rows)

        return jax.lax.while_loop(goes_on, lambda carry: (carry[0] + 1, jnp.tanh(carry[1] @ w)), carry)

    def search(x: jax.Array, w: jax.Array) -> jax.Array:
        step, x = until(2, (jnp.int32(0), x), w)
        return until(0, (step, x[:2]), w)[1]

    program = read_program(text_of(search, (8, 16), (16, 16)), turns=7)
    assert [(product.flops, product.times) for product in program.operations if product.flops] == [
        (2 * 8 * 16 * 16, 7),
        (2 * 2 * 16 * 16, 0),
    ]
    assert len(program.unknown_loops) == 2


def test_turns_depend_on_numbers() -> None:
    """It is not known how often: counted once, and listed."""

    def halved(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ w, x)

    program = read_program(text_of(halved, (8, 16), (16, 16)))
    assert program.flops == 2 * 8 * 16 * 16
    assert [loop.trips for loop in program.unknown_loops] == [None]


def test_a_turn_reads_a_slice() -> None:
    """Of stacked weights a turn reads its own: traffic is of all of them once, not once a turn."""
    turns, width = 16, 64
    program = read(
        lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0],
        (1, width),
        (turns, width, width),
    )
    weights = 4 * turns * width * width
    assert program.flops == turns * 2 * width * width
    assert weights <= program.hbm_bytes <= 4 * weights  # with a copy or two of the slice


@settings(max_examples=6, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(2, 9), st.lists(st.integers(2, 12), min_size=1, max_size=3)),
        min_size=1,
        max_size=3,
    ),
    st.integers(2, 9),
)
def test_chains(scans: list[tuple[int, list[int]]], rows: int) -> None:
    """Scans around chains of products, one after the other."""
    width, expected = 10, 0
    sizes, chains = [(rows, width)], []
    for turns, widths in scans:
        chain = list(itertools.pairwise((width, *widths, width)))
        expected += turns * sum(2 * rows * a * b for a, b in chain)
        chains.append((turns, range(len(sizes), len(sizes) + len(chain))))
        sizes += chain

    def function(*arrays: jax.Array) -> jax.Array:
        x = arrays[0]
        for turns, places in chains:

            def turn(x: jax.Array, _: None, places: range = places) -> tuple[jax.Array, None]:
                for place in places:
                    x = jnp.tanh(x @ arrays[place])
                return x, None

            x = jax.lax.scan(turn, x, None, length=turns)[0]
        return x

    assert read(function, *sizes).flops == expected


# Compiled for eight devices, in a process of its own: JAX counts its devices once.


def exchanging() -> str:
    """A program on a mesh of two by four in which every turn of a loop exchanges in each way."""
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def turn(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        lax = jax.lax
        summed = jnp.tanh(lax.psum(x, "b")) + jnp.sin(lax.all_gather(x, "a")).sum(0)
        scattered = jnp.tile(jnp.cos(lax.psum_scatter(x, "b", tiled=True)), (4, 1))
        moved = lax.all_to_all(x, "b", 0, 0, tiled=True) * lax.ppermute(x, "a", [(0, 1), (1, 0)])
        return summed + scattered + moved * jnp.sqrt(lax.psum(x.sum(), ("a", "b"))), None

    def per_shard(x: jax.Array) -> jax.Array:
        return jax.lax.scan(turn, x, None, length=5)[0]

    @jax.jit
    def function(x: jax.Array) -> jax.Array:
        return jax.shard_map(per_shard, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=False)(x)

    return function.lower(jax.ShapeDtypeStruct((16, 32), jnp.float32)).compile().as_text() or ""


def partitioned() -> str:
    """A product over a sharded axis, which the compiler partitions."""
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    shardings = NamedSharding(mesh, P("a", "b")), NamedSharding(mesh, P("b", None))
    product = jax.jit(jnp.matmul, in_shardings=shardings, out_shardings=NamedSharding(mesh, P("a", None)))
    arrays = (jax.ShapeDtypeStruct(each, jnp.float32) for each in ((16, 32), (32, 64)))
    return product.lower(*arrays).compile().as_text() or ""


@pytest.fixture(scope="module")
def of_eight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of both."""
    file = tmp_path_factory.mktemp("eight") / "texts"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, __file__, str(file)], check=True, env=environment, timeout=600)
    return pickle.loads(file.read_bytes())


def test_exchanges(of_eight: dict[str, str]) -> None:
    """Kind, bytes of the whole, group and turns of each."""
    program = read_program(of_eight["exchanging"])
    shard = 4 * 8 * 32
    along_a, along_b = (0, 4), (0, 1, 2, 3)
    assert {(c.kind, c.dtype, c.bytes, c.group, c.trips) for c in program.collectives} == {
        ("all-reduce", "f32", shard, along_b, 5),
        ("all-gather", "f32", 2 * shard, along_a, 5),
        ("reduce-scatter", "f32", shard, along_b, 5),
        ("all-to-all", "f32", shard, along_b, 5),
        ("collective-permute", "f32", shard, along_a, 5),
        ("all-reduce", "f32", 4, tuple(range(8)), 5),
    }
    assert len(program.collectives) == 6
    assert {c.size for c in program.collectives} == {2, 4, 8}
    names = {c.op_name.rsplit("/", 1)[1] for c in program.collectives}
    assert names == {"psum", "all_gather", "reduce_scatter", "all_to_all", "ppermute"}


def test_partitioned(of_eight: dict[str, str]) -> None:
    """Of a product over a sharded axis a device has an eighth, and the sum of four."""
    program = read_program(of_eight["partitioned"])
    assert program.flops == 2 * 16 * 32 * 64 / 8
    assert [(c.kind, c.bytes, c.group) for c in program.collectives] == [
        ("all-reduce", 4 * 8 * 64, (0, 1, 2, 3))
    ]


# Written lines, in the ways of TPUs and GPUs.


def written(lines: str, *others: str, header: str = "num_partitions=8") -> Program:
    """What an entry of these lines does, which may call other computations."""
    return read_program(
        "\n\n".join((f"HloModule made, {header}", *others, f"ENTRY %main () -> f32[] {{\n{lines}\n}}\n"))
    )


ROWS, TIME, WIDTH, HEADS, KEYS, HEAD, INNER = 16, 512, 5120, 40, 8, 128, 17408
MLP = 2 * ROWS * TIME * WIDTH * INNER
QUERIES = 2 * ROWS * TIME * WIDTH * HEADS * HEAD
KEY = 2 * ROWS * TIME * WIDTH * KEYS * HEAD
SCORES = 2 * ROWS * HEADS * TIME * TIME * HEAD
# The products of a decoder's layer as TPUs write them: operand, kernel, result; how; operations.
CONVOLUTIONS = {
    "mlp": ("16,512,5120 5120,17408,1 16,512,17408", "size=1", "0bf_io0->0bf", MLP),
    "mlp, to its input": ("16,512,17408 5120,17408,1 16,512,5120", "size=1", "0bf_oi0->0bf", MLP),
    "mlp, to its weight": ("16,512,5120 16,512,17408 5120,17408,1", "size=16", "0fb_0io->bf0", MLP),
    "queries": (
        "16,512,5120,1 5120,40,128,1 16,512,40,128",
        "size=1x40 pad=0_0x39_39 rhs_reversal=0x1",
        "0bf1_i1o0->0b1f",
        QUERIES,
    ),
    "out": ("16,512,40,128 40,128,5120,1 16,512,5120,1", "size=1x40", "0b1f_1io0->0bf1", QUERIES),
    "out, to its weight": (
        "16,512,40,128 16,512,5120,1 40,128,5120,1",
        "size=16x1",
        "0f1b_0io1->1bf0",
        QUERIES,
    ),
    "keys, to their weight": (
        "16,512,5120,1 16,512,8,128 5120,8,128,1",
        "size=8x16 pad=7_7x0_0 rhs_reversal=1x0",
        "1fb0_1i0o->b0f1",
        KEY,
    ),
    "scores": (
        "16,512,8,128,1 16,512,8,5,128 16,8,512,512,5",
        "size=16x8x5 stride=15x7x1 pad=0_0x0_0x4_4 lhs_dilate=16x8x1 rhs_reversal=0x0x1",
        "0b1f2_0o12i->01bf2",
        SCORES,
    ),
    "values": (
        "16,512,8,128,1 16,8,5,512,512 16,8,128,5,512",
        "size=16x8x5 stride=15x7x1 pad=0_0x0_0x4_4 lhs_dilate=16x8x1 rhs_reversal=0x0x1",
        "0f1b2_012oi->01b2f",
        SCORES,
    ),
    "scores, to queries": (
        "16,8,512,512,5 16,512,8,128,1 16,8,512,5,128",
        "size=16x8x1 stride=15x7x1 lhs_dilate=16x8x1",
        "01fb2_0i1o2->01b2f",
        SCORES,
    ),
    "scores, to keys": (
        "16,8,512,512,5 16,512,8,5,128 16,8,512,128,1",
        "size=16x8x5 stride=15x7x1 lhs_dilate=16x8x1",
        "01bf2_0i12o->01bf2",
        SCORES,
    ),
}


def convolution(sizes: str, window: str, labels: str, kind: str = "bf16") -> str:
    """Lines of one."""
    left, right, result = sizes.split()
    return f"""  %left = {kind}[{left}]{{1,0:T(8,128)(2,1)}} parameter(0)
  %right = {kind}[{right}]{{1,0:T(8,128)(2,1)}} parameter(1)
  ROOT %convolution.1 = f32[{result}]{{1,0:T(8,128)}} convolution(%left, %right), window={{{window}}}, \
dim_labels={labels}"""


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_products_of_tpus(name: str) -> None:
    """Each is a product of matrices, of which it has the operations."""
    sizes, window, labels, flops = CONVOLUTIONS[name]
    assert written(convolution(sizes, window, labels)).flops == flops


@settings(deadline=None)
@given(
    size=st.integers(1, 8),
    window=st.integers(1, 6),
    stride=st.integers(1, 4),
    pads=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilate=st.integers(1, 4),
    spread=st.integers(1, 3),
)
def test_any_window(
    size: int, window: int, stride: int, pads: tuple[int, int], dilate: int, spread: int
) -> None:
    """Pairs that meet a real entry, counted one by one."""
    padded = (
        [False] * pads[0]
        + [place % dilate == 0 for place in range((size - 1) * dilate + 1)]
        + [False] * pads[1]
    )
    results = (len(padded) - (window - 1) * spread - 1) // stride + 1
    if results < 1:
        return
    met = sum(padded[r * stride + place * spread] for r in range(results) for place in range(window))
    how = f"size={window} stride={stride} pad={pads[0]}_{pads[1]} lhs_dilate={dilate} rhs_dilate={spread}"
    program = written(convolution(f"4,{size},3 {window},3,7 4,{results},7", how, "b0f_0io->b0f"))
    assert program.flops == 2 * 4 * 3 * 7 * met


ADD = """%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}"""
GROUPS = {
    "replica_groups={{0,1},{2,3},{4,5},{6,7}}": (0, 1),
    "replica_groups={}": tuple(range(8)),
    "replica_groups=[2,4]<=[8]": (0, 1, 2, 3),
    "replica_groups=[4,2]<=[2,4]T(1,0)": (0, 4),
    "replica_groups=[2,4]<=[2,2,2]T(1,0,2)": (0, 1, 4, 5),
    "replica_groups=mesh['axis_0'=8] {'axis_0'}": tuple(range(8)),
    "replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}": (0, 2),
    "replica_groups=mesh['a'=2,'b'=2,'c'=2] {'c','a'}": (0, 1, 4, 5),
    "replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}": (0, 1),
    "replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}": (0, 2),
    "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}": (0, 1),
    "replica_groups=mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'a'}": (3, 7),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups(groups: str) -> None:
    """In every way in which HLO writes them."""
    program = written(
        f"""  %x = f32[8,4]{{1,0:T(8,128)}} parameter(0)
  ROOT %r = f32[8,4]{{1,0:T(8,128)}} all-reduce(%x), channel_id=1, {groups}, use_global_device_ids=true, \
to_apply=%add.1""",
        ADD,
    )
    assert program.collectives[0].group == GROUPS[groups]


@pytest.mark.parametrize(
    ("pairs", "group"),
    [
        ("{0,2},{2,4},{4,6},{6,0},{1,3},{3,5},{5,7},{7,1}", (0, 2, 4, 6)),
        ("{1,2},{0,1},{2,3}", (0, 1, 2, 3)),
        ("{0,0},{2,3}", (2, 3)),
    ],
)
def test_permutations(pairs: str, group: tuple[int, ...]) -> None:
    """Those who send to each other in turn, in a ring or a row."""
    program = written(f"""  %x = f32[8,4] parameter(0)
  ROOT %r = f32[8,4] collective-permute(%x), channel_id=1, source_target_pairs={{{pairs}}}""")
    assert program.collectives[0].group == group


def test_asynchronous() -> None:
    """A start and its end are one, of the whole, whatever a start has beside its result."""
    program = written(
        """  %x = bf16[4,8]{1,0} parameter(0)
  %y = f32[16]{0} parameter(1)
  %gather = (bf16[4,8]{1,0}, bf16[32,8]{1,0}) all-gather-start(%x), channel_id=1, \
replica_groups=[1,8]<=[8], dimensions={0}
  %reduce = f32[16]{0} all-reduce-start(%y), channel_id=2, replica_groups=[1,8]<=[8], to_apply=%add.1
  %send = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[], u32[]) collective-permute-start(%x), \
source_target_pairs={{0,1},{1,0}}
  %gathers = ((f32[16]{0}, bf16[4,8]{1,0}), (f32[128]{0}, bf16[32,8]{1,0})) all-gather-start(%y, %x), \
replica_groups=[1,8]<=[8], dimensions={0}
  %scatter = ((f32[16]{0}), f32[2]{0}, s32[]) async-start(%y), calls=%wrapped, \
metadata={op_name="jit(f)/psum_scatter"}
  %exchange = ((f32[16]{0}), f32[16]{0}, s32[]) all-to-all-start(%y), replica_groups=[1,8]<=[8], \
dimensions={0}
  %gathered = bf16[32,8]{1,0} all-gather-done(%gather)
  %reduced = f32[16]{0} all-reduce-done(%reduce)
  %sent = bf16[4,8]{1,0} collective-permute-done(%send)
  %exchanged = f32[16]{0} all-to-all-done(%exchange)
  %scatter.1 = ((f32[16]{0}), f32[2]{0}, s32[]) async-update(%scatter)
  %scattered = f32[2]{0} async-done(%scatter.1)
  ROOT %both = (f32[128]{0}, bf16[32,8]{1,0}) all-gather-done(%gathers)""",
        ADD,
        """%wrapped (p: f32[16]) -> f32[2] {
  %p = f32[16]{0} parameter(0)
  ROOT %rs = f32[2]{0} reduce-scatter(%p), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add.1
}""",
    )
    assert sorted((c.kind, c.bytes, c.size) for c in program.collectives) == [
        ("all-gather", 8 * 64, 8),
        ("all-gather", 8 * (64 + 64), 8),
        ("all-reduce", 64, 8),
        ("all-to-all", 64, 8),
        ("collective-permute", 64, 2),
        ("reduce-scatter", 64, 8),
    ]
    assert {c.op_name for c in program.collectives} == {"", "jit(f)/psum_scatter"}
    # Each reads its operand and writes its result, once.
    gather, scatter = 64 + 8 * 64, 64 + 8
    assert program.hbm_bytes == gather + 2 * 64 + 2 * 64 + 2 * gather + scatter + 2 * 64


def test_fused_reduce_scatter() -> None:
    """TPUs write it as a sum of which a fusion keeps a part; a sum that is kept whole is none."""
    program = written(
        """  %x = bf16[5120,128]{1,0:T(8,128)(2,1)} parameter(0)
  %whole = bf16[5120,128]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=3, replica_groups={{0,1,2,3}}, \
to_apply=%add.1
  ROOT %part = bf16[1280,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, \
calls=%all-reduce-scatter.clone.1, metadata={op_name="jit(f)/dot_general"}""",
        ADD,
        """%all-reduce-scatter.clone.1 (input: bf16[5120,128]) -> bf16[1280,128] {
  %input = bf16[5120,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[5120,128]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=37, \
replica_groups=mesh['axis_0'=4] {'axis_0'}, use_global_device_ids=true, to_apply=%add.1
  %partition-id.4 = u32[] partition-id()
  %size = u32[] constant(1280)
  %begin = u32[]{:T(128)} multiply(%partition-id.4, %size)
  %zero = u32[] constant(0)
  ROOT %kept = bf16[1280,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %begin, %zero), \
dynamic_slice_sizes={1280,128}
}""",
    )
    whole = 2 * 5120 * 128
    assert program.collectives == (
        Collective("whole", "", "all-reduce", "bf16", whole, (0, 1, 2, 3), 1),
        Collective("all-reduce.9", "jit(f)/dot_general", "reduce-scatter", "bf16", whole, (0, 1, 2, 3), 1),
    )
    assert program.hbm_bytes == 2 * whole + whole + whole // 4


def loop(condition: str, step: str, *, start: str = "0", limit: str = "29", known: str = "") -> Program:
    """A loop whose tuple has a number, what is multiplied, and a limit, and what it does."""
    carried = "(s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}, /*index=2*/s32[]{:T(128)})"
    return written(
        f"""  %x = f32[8,8]{{1,0:T(8,128)}} parameter(0)
  %start.0 = s32[]{{:T(128)}} constant({start})
  %start = s32[]{{:T(128)}} copy(%start.0)
  %limit = s32[]{{:T(128)}} constant({limit})
  %given = {carried} tuple(%start, %x, /*index=2*/%limit)
  %while.1 = {carried} while(%given), condition=%turning, body=%turn, \
metadata={{op_name="jit(f)/while"}}{known}
  ROOT %last = f32[8,8]{{1,0:T(8,128)}} get-tuple-element(%while.1), index=1""",
        f"""%turning (p: {carried}) -> pred[] {{
  %p.1 = {carried} parameter(0)
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%p.1), index=0
  %written = s32[]{{:T(128)}} constant({limit})
  %carried = s32[]{{:T(128)}} get-tuple-element(%p.1), index=2
  ROOT %test = pred[]{{:T(512)}} compare({condition}
}}""",
        f"""%turn (p: {carried}) -> {carried} {{
  %p.2 = {carried} parameter(0)
  %i.2 = s32[]{{:T(128)}} get-tuple-element(%p.2), index=0
  %x.2 = f32[8,8]{{1,0:T(8,128)}} get-tuple-element(%p.2), index=1
  %end = s32[]{{:T(128)}} get-tuple-element(%p.2), index=2
  %one = s32[]{{:T(128)}} constant(1)
  %two = s32[]{{:T(128)}} constant(2)
  %next = s32[]{{:T(128)}} {step}
  %y = f32[8,8]{{1,0:T(8,128)}} convolution(%x.2, %x.2), window={{}}, dim_labels=bf_io->bf
  ROOT %given.2 = {carried} tuple(%next, %y, %end)
}}""",
    )


UP, DOWN = "add(%i.2, %one)", "subtract(%i.2, %two)"


@pytest.mark.parametrize(
    ("condition", "step", "start", "limit", "turns"),
    [
        ("%i.1, %written), direction=LT", UP, "0", "29", 29),
        ("%i.1, %carried), direction=LT", UP, "0", "29", 29),
        ("%carried, %i.1), direction=GT", UP, "0", "29", 29),
        ("%i.1, %written), direction=LE", UP, "3", "29", None),
        ("%i.1, %written), direction=LT", "add(%two, %i.2)", "0", "29", 15),
        ("%i.1, %written), direction=GT", DOWN, "28", "0", None),
        ("%i.1, %written), direction=LT", UP, "30", "29", 0),
        ("%i.1, %written), direction=LT", "add(%i.2, %end)", "0", "29", 1),
        ("%i.1, %written), direction=LT", "multiply(%i.2, %two)", "1", "29", None),
    ],
)
def test_turns(condition: str, step: str, start: str, limit: str, turns: int | None) -> None:
    """They follow from the start, the step and the limit, where the compiler does not say them."""
    program = loop(condition, step, start=start, limit=limit)
    assert [(each.name, each.op_name, each.trips) for each in program.loops] == [
        ("while.1", "jit(f)/while", turns)
    ]
    assert program.flops == 2 * 8**3 * (1 if turns is None else turns)
    assert len(program.unknown_loops) == (turns is None)


def test_turns_that_are_written() -> None:
    """What the compiler says is preferred."""
    known = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert loop("%i.1, %written), direction=LT", UP, known=known).loops[0].trips == 5


PAIR = "(s32[], s32[])"
FUSED = """%below (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %test.3 = pred[] compare(%a, %b), direction=GT
}

%two_more (c: s32[]) -> s32[] {
  %c = s32[] parameter(0)
  %two.3 = s32[] constant(2)
  ROOT %sum.3 = s32[] add(%c, %two.3)
}

%pair (d: s32[], e: s32[]) -> (s32[], s32[]) {
  %d = s32[] parameter(0)
  %e = s32[] parameter(1)
  ROOT %pair.3 = (s32[], s32[]) tuple(%d, %e)
}"""
FUSED_TEST = "fusion(%end.1, %i.1), kind=kLoop, calls=%below"
TEST, TWO_MORE = "compare(%i.1, %end.1), direction=LT", "add(%i.2, %two)"


@pytest.mark.parametrize(
    ("test", "step", "given", "turned", "turns"),
    [
        (TEST, TWO_MORE, "tuple(%three, %limit)", "tuple(%next, %end.2)", 13),
        (FUSED_TEST, TWO_MORE, "tuple(%three, %limit)", "tuple(%next, %end.2)", 13),
        (FUSED_TEST, "fusion(%i.2), kind=kLoop, calls=%two_more", "tuple(%three, %limit)", "", 13),
        (TEST, TWO_MORE, "tuple(%three, %limit)", "tuple(%next, %copied)", 13),
        (TEST, TWO_MORE, "tuple(%three, %handed_on)", "", 13),
        (TEST, TWO_MORE, "tuple(%counted, %limit)", "", None),  # of what another loop changed
        (TEST, TWO_MORE, "tuple(%three, %asked)", "", None),
        (TEST, TWO_MORE, "tuple(%asked, %limit)", "", None),
        (TEST, TWO_MORE, "tuple(%three, %limit)", "tuple(%next, %next)", None),
        (TEST, TWO_MORE, "tuple(%three, %limit)", "tuple(%end.2, %i.2)", None),
        (TEST, TWO_MORE, "tuple(%three, %limit)", "call(%next, %end.2), to_apply=%pair", None),
        (
            "compare(%i.1, %written), direction=LT",
            TWO_MORE,
            "tuple(%three, %limit)",
            "call(%next, %end.2), to_apply=%pair",
            9,
        ),
        (TEST, "subtract(%two, %i.2)", "tuple(%three, %limit)", "", None),
        (TEST, "add(%i.2, %i.2)", "tuple(%three, %limit)", "", None),
        (TEST, "add(%i.2, %product)", "tuple(%three, %limit)", "", None),
    ],
)
def test_turns_through_other_computations(
    test: str, step: str, given: str, turned: str, turns: int | None
) -> None:
    """From 3 by 2 below 29, or 21: told, or not told, and never a wrong number."""
    program = written(
        f"""  %asked = s32[] parameter(0)
  %three = s32[] constant(3)
  %limit = s32[] constant(29)
  %before = {PAIR} tuple(%three, %limit)
  %while.0 = {PAIR} while(%before), condition=%turning, body=%turn
  %counted = s32[] get-tuple-element(%while.0), index=0
  %handed_on = s32[] get-tuple-element(%while.0), index=1
  %given = {PAIR} {given}
  %while.1 = {PAIR} while(%given), condition=%turning, body=%turn
  ROOT %last = s32[] get-tuple-element(%while.1), index=0""",
        FUSED,
        f"""%turning (p: {PAIR}) -> pred[] {{
  %p.1 = {PAIR} parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %end.1 = s32[] get-tuple-element(%p.1), index=1
  %written = s32[] constant(21)
  ROOT %test = pred[] {test}
}}""",
        f"""%turn (p: {PAIR}) -> {PAIR} {{
  %p.2 = {PAIR} parameter(0)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %end.2 = s32[] get-tuple-element(%p.2), index=1
  %copied = s32[] copy(%end.2)
  %two = s32[] constant(2)
  %product = s32[] multiply(%i.2, %two)
  %next = s32[] {step}
  ROOT %given.2 = {PAIR} {turned or "tuple(%next, %end.2)"}
}}""",
    )
    assert {each.name: each.trips for each in program.loops}["while.1"] == turns


def test_turns_that_an_outer_loop_counts() -> None:
    """An inner loop as long as the outer one has turned, and one in a branch that is given its number."""

    def triangle(x: jax.Array, w: jax.Array) -> jax.Array:
        def row(i: jax.Array, x: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, i, lambda _, x: jnp.tanh(x @ w), x)

        return jax.lax.fori_loop(0, 3, row, x)

    def branched(x: jax.Array, w: jax.Array) -> jax.Array:
        def many(number: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, number, lambda _, x: jnp.tanh(x @ w), x)

        return jax.lax.cond(x[0, 0] > 0, many, lambda number: x + number, jnp.int32(x[0, 1]))

    for function, outer, trips in ((triangle, 3, [3, None]), (branched, 1, [None])):
        for text in (whole := text_of(function, (8, 16), (16, 16)), KNOWN.sub("", whole)):
            program = read_program(text)
            assert [loop.trips for loop in program.loops] == trips
            assert program.flops == outer * 2 * 8 * 16 * 16


def test_memory_of_tpus() -> None:
    """What is in on-chip memory costs no main memory; S(1) of a GPU is main memory."""
    lines = """  %x = f32[16,512]{1,0:T(8,128)} parameter(0)
  %start = (f32[16,512]{1,0:T(8,128)S(1)}, f32[16,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %x.1 = f32[16,512]{1,0:T(8,128)S(1)} copy-done(%start)
  %y = f32[16,512]{1,0:T(8,128)S(1)} exponential(%x.1)
  %z = f32[16,512]{1,0:T(8,128)} multiply(%y, %y)
  %b = f32[8192]{0:T(1024)} bitcast(%z)
  ROOT %t = (f32[8192]{0:T(1024)}) tuple(%b)"""
    array = 4 * 16 * 512
    assert written(lines).hbm_bytes == 2 * array  # read by the copy, written by the product
    gpu = lines.replace(":T(8,128)S(1)", ":S(1)").replace(":T(8,128)", "").replace(":T(1024)", "")
    assert written(gpu).hbm_bytes == 2 * array + 2 * array + 2 * array


def test_memory_of_parts() -> None:
    """Of what is sliced or changed in part, the part; of gathered rows, the rows."""
    program = written(
        """  %stack = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %row = f32[1,128]{1,0:T(1,128)} parameter(2)
  %rows = s32[16]{0:T(128)} parameter(3)
  %part = bf16[1,128]{1,0:T(1,128)} fusion(%stack, %i), kind=kLoop, calls=%sliced
  %changed = f32[64,128]{1,0:T(8,128)} fusion(%stack, %i, %row), kind=kLoop, calls=%updated
  %zero = s32[]{:T(128)S(6)} constant(0)
  %plain = f32[1,128]{1,0:T(1,128)} dynamic-slice(%changed, %i, %zero), dynamic_slice_sizes={1,128}
  %again = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%changed, %plain, %i, %zero)
  %start = ((), (), s32[32768]{0:T(1024)}) async-start(), calls=%async_computation
  %update = ((f32[64,128]{1,0:T(8,128)}, s32[16]{0:T(128)}), f32[16,128]{1,0:T(8,128)}, \
s32[32768]{0:T(1024)}) async-update(%start, %again, %rows)
  ROOT %done = f32[16,128]{1,0:T(8,128)} async-done(%update)""",
        """%within (stack.1: f32[64,128], i.1: s32[]) -> f32[1,128] {
  %stack.1 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i.1 = s32[]{:T(128)S(6)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %slice.1 = f32[1,128]{1,0:T(1,128)} dynamic-slice(%stack.1, %i.1, %zero.1), dynamic_slice_sizes={1,128}
}""",
        """%sliced (stack.2: f32[64,128], i.2: s32[]) -> bf16[1,128] {
  %stack.2 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i.2 = s32[]{:T(128)S(6)} parameter(1)
  %slice.2 = f32[1,128]{1,0:T(1,128)} fusion(%stack.2, %i.2), kind=kLoop, calls=%within
  ROOT %convert.2 = bf16[1,128]{1,0:T(1,128)} convert(%slice.2)
}""",
        """%updated (stack.3: f32[64,128], i.3: s32[], row.3: f32[1,128]) -> f32[64,128] {
  %stack.3 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i.3 = s32[]{:T(128)S(6)} parameter(1)
  %row.3 = f32[1,128]{1,0:T(1,128)} parameter(2)
  %zero.3 = s32[]{:T(128)} constant(0)
  ROOT %update.3 = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%stack.3, %row.3, %i.3, %zero.3)
}""",
        """%gathered (stack.4: f32[64,128], rows.4: s32[16]) -> f32[16,128] {
  %stack.4 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %rows.4 = s32[16]{0:T(128)} parameter(1)
  ROOT %gather.4 = f32[16,128]{1,0:T(8,128)} gather(%stack.4, %rows.4), offset_dims={1}, slice_sizes={1,128}
}, execution_thread="sparsecore"
""",
        """%called (stack.5: f32[64,128], rows.5: s32[16]) -> f32[16,128] {
  %stack.5 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %rows.5 = s32[16]{0:T(128)} parameter(1)
  ROOT %gather.5 = f32[16,128]{1,0:T(8,128)} fusion(%stack.5, %rows.5), kind=kCustom, calls=%gathered
}, execution_thread="sparsecore"
""",
        """%async_computation (stack.6: f32[64,128], rows.6: s32[16]) -> f32[16,128] {
  %stack.6 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %rows.6 = s32[16]{0:T(128)} parameter(1)
  ROOT %custom.6 = f32[16,128]{1,0:T(8,128)} custom-call(%stack.6, %rows.6), custom_call_target="TODO", \
called_computations={%called}
}, execution_thread="sparsecore"
""",
    )
    row = 4 * 128
    sliced, changed, plain, again = row + row // 2, 2 * row, 2 * row, 2 * row
    assert program.hbm_bytes == sliced + changed + plain + again + 2 * 16 * row + 4 * 16


def test_operands_with_types() -> None:
    """As some versions write them, without signs before names."""
    program = written("""  x = f32[30,40]{1,0} parameter(0)
  y = f32[40,50]{1,0} parameter(1)
  ROOT z = f32[30,50]{1,0} dot(f32[30,40]{1,0} x, f32[40,50]{1,0} y), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}""")
    assert program.flops == 2 * 30 * 40 * 50


def test_small_types() -> None:
    """Two of four bits are a byte."""
    program = written("""  %x = s4[64]{0:E(4)} parameter(0)
  %y = f8e4m3fn[64]{0} convert(%x)
  ROOT %z = pred[64]{0} convert(%y)""")
    assert program.hbm_bytes == 32 + 64 + 64 + 64


def test_no_program() -> None:
    """Text of something else."""
    with pytest.raises(ValueError, match="no ENTRY"):
        read_program("module @jit_f {\n}")
    with pytest.raises(ValueError, match=r"no type in: parameter\(0\)"):
        written("  %x = parameter(0)")
    with pytest.raises(ValueError, match=r"an open bracket in: f32\[\] parameter\(0"):
        written("  %x = f32[] parameter(0")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    texts = {"exchanging": exchanging(), "partitioned": partitioned()}
    Path(sys.argv[1]).write_bytes(pickle.dumps(texts))


def test_attributes_with_line_breaks_end_nothing() -> None:
    """As Pallas's kernels have them on TPUs."""
    text = """HloModule jit_f, entry_computation_layout={()->f32[8,8]{1,0}}, num_partitions=1

ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %kernel = f32[8,8]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={k="a
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/kernel"}
  ROOT %product = f32[8,8]{1,0} dot(%kernel, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
    program = read_program(text)
    assert program.flops == 2 * 8**3
    assert [one.name for one in program.operations] == ["jit(f)/kernel", ""]
