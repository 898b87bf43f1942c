"""Work and memory by hand against arithmetic, against what XLA compiles, and as a page of GPUs."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import jax
import pytest
from helpers.command_line import Ran, call, python

from pretrainrl_jax.config import (
    Config,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    PlatformConfig,
    PretrainConfig,
)
from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.attention import Kernel
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.mesh import Cut, make_mesh
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.splash import block_size, part_size
from pretrainrl_jax.planning import target
from pretrainrl_jax.planning.by_hand import ByHand, Packed, recomputed
from pretrainrl_jax.planning.chips import CHIPS, topology
from pretrainrl_jax.planning.planned import Decoding, Step
from pretrainrl_jax.planning.program import read_program
from pretrainrl_jax.planning.programs import planned
from pretrainrl_jax.planning.shapes import KNOWN
from pretrainrl_jax.planning.target import prepare_target
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.planning.work import FLOAT32, Operation, Work
from pretrainrl_jax.platforms import kernel_for

ROOT = Path(__file__).parents[2]
# 2 layers of 4 x (2 x 2 x 2 x 8) + 3 x 4 x 16 entries: 2 heads of 8, one for both keys and values
SHAPE = ModelShape("llama", 100, 4, 2, 2, 1, 8, 16, 1e4, 1e-5, tied=True, dtype="bfloat16")
MATRICES = 4 * 2 * (2 + 1) * 8 + 3 * 4 * 16
HEAD = 2 * 100 * 4  # FLOPs of a hidden state
LARGE = KNOWN["Qwen3-8B-Base"]


def by_name(work: Work) -> dict[str, Operation]:
    """Operations; of several with a name the last one."""
    return {op.name: op for op in work.operations}


ALONE = Cut()


def hand(shape: ModelShape = SHAPE, cut: Cut = ALONE, kernel: Kernel = "xla") -> ByHand:
    return ByHand(shape, cut, kernel)


def test_a_step_computes_layers_three_times_and_with_recomputation_all_but_one_product_again() -> None:
    kept, again = (
        by_name(Step((Packed(3, 10, 5),)).work(hand(replace(SHAPE, remat=remat))))
        for remat in ("none", "full")
    )
    assert kept["products"].flops == 2 * MATRICES * 30 * 3
    assert again["products"].flops == 2 * (MATRICES * 3 + MATRICES - 4 * 16) * 30
    assert kept["attention"].flops == 3 * 4 * 10 * 2 * 8 * 30  # the whole square: of a row 10 places each
    assert again["attention"].flops == 4 * 4 * 10 * 2 * 8 * 30
    assert kept["vocabulary"].flops == 4 * HEAD * 15
    assert kept["products"].times == SHAPE.layers


def test_a_flash_kernel_computes_scores_once_more_and_writes_none() -> None:
    shape = replace(SHAPE, head_dim=64)
    fused, plain = (
        by_name(Step((Packed(1, 128, 8),)).work(one)) for one in (hand(shape, kernel="cudnn"), hand(shape))
    )
    assert fused["attention"].flops == plain["attention"].flops * 3.5 / 3
    assert fused["attention"].bytes == 12 * 2 * 128 * 2 * 64  # operands, results and their gradients
    assert fused["attention"].head_dim == 64
    scores = 128 * 2 * 128 * (4 + 2)  # float32, and probabilities
    assert plain["attention"].bytes == 2 * 2 * scores
    assert plain["attention"].head_dim == 0


def test_rows_beside_have_their_own_passes_and_the_optimizer_runs_once() -> None:
    one, both = (Step((Packed(3, 10, 5),) * kinds).work(hand()) for kinds in (1, 2))
    assert both.flops == 2 * one.flops
    assert sum(op.name == "optimizer" for op in both.operations) == 1


def test_beams_read_all_weights_and_the_whole_cache_for_every_token() -> None:
    one = hand()
    work = Decoding(rows=3, time=16, branches=5, new=4, sampled=False).work(one)
    prefill, decoding = work.operations[:4], work.operations[4:]
    steps, length = 3, 16 + 5 * 4
    assert sum(op.flops for op in prefill if op.name == "products") == 2 * MATRICES * 3 * 16
    assert sum(op.flops for op in prefill if op.name == "vocabulary") == HEAD * 3
    products, attention, _, vocabulary = decoding
    assert products.times == attention.times == SHAPE.layers * steps
    assert products.flops == 2 * MATRICES * 15
    assert products.bytes == (4 + 2 + 2) * MATRICES  # a master read, a copy written, and read
    assert attention.flops == 4 * (length + 5) * 2 * 8 * 15
    cache = 2 * 3 * length * 8 * 2  # keys and values of one head of 8, bfloat16, a layer
    assert one.cache(3, length) == SHAPE.layers * cache
    assert attention.bytes == cache + 2 * (4 + 2) * 15 * 2 * (length + 5)
    assert vocabulary.times == steps
    assert vocabulary.flops == HEAD * 15
    assert work.sent == ()


def test_samples_each_see_their_own_cache_and_draw_every_token() -> None:
    products, attention, _, vocabulary = Decoding(3, 16, 5, 4, sampled=True).work(hand()).operations[3:]
    assert products.times == SHAPE.layers * 4
    assert attention.flops == 4 * (16 + 4 + 5) * 2 * 8 * 15
    assert vocabulary.flops * vocabulary.times == HEAD * 15 * 4


def test_cut_weights_are_gathered_for_every_token() -> None:
    sent = Decoding(6, 16, 5, 4, sampled=False).work(hand(cut=Cut(1, 2, 1))).sent
    layers = [one for one in sent if one.name == "layers' weights"]
    assert sum(one.times for one in layers) == SHAPE.layers * (1 + 3)
    assert {one.bytes for one in layers} == {2 * MATRICES}
    heads = [one for one in sent if one.name == "vocabulary"]
    assert sum(one.times for one in heads) == 1 + 3
    assert {(one.kind, one.group) for one in sent} == {("all-gather", 2)}


def test_copied_weights_are_gathered_once_and_read_for_every_token() -> None:
    shape = replace(LARGE, dtype="bfloat16")
    plain, copying = (replace(hand(shape, Cut(1, 8, 2)), room=room) for room in (0.0, 1e12))
    cast = FLOAT32 * parameters(shape).total / 2 / 8 + copying.copy
    assert copying.copy == parameters(shape).total  # two bytes, two parts
    for sampled in (False, True):
        before, after = (Decoding(24, 16, 5, 4, sampled).work(one) for one in (plain, copying))
        weights = [one for one in after.sent if one.kind == "all-gather"]
        told = [(one.bytes, one.group, one.times, one.stride) for one in weights]
        assert told == [(copying.copy, 8, 1.0, 2)]
        assert {one.kind for one in after.sent} == {"all-gather", "all-reduce"}
        assert sum(op.flops * op.times for op in after.operations) == pytest.approx(
            sum(op.flops * op.times for op in before.operations)
        )
        read = by_name(after)
        assert read["copy of the weights"].bytes == cast
        assert read["products"].bytes == 2 * copying.weights
        assert by_name(before)["products"].bytes == FLOAT32 * plain.weights / 8 + 4 * plain.weights
    sampling = Decoding(24, 16, 5, 4, True)
    more = sampling.working(copying) - sampling.working(plain)
    assert 0.8 * copying.copy < more < copying.copy


def test_memory_of_a_recomputed_step_keeps_the_inputs_of_layers() -> None:
    few, more = (hand(replace(LARGE, layers=n, remat="full", dtype="bfloat16")) for n in (2, 6))
    step, four = Step((Packed(2, 512, 64),)), Step((Packed(8, 512, 64),), microsteps=4)
    assert step.saved(more) - step.saved(few) == 4 * 2 * 512 * 4096 * 2
    gradients = more.parameters - few.parameters
    added = step.working(more) - step.working(few)
    assert added == pytest.approx(gradients + 4 * 2 * 512 * 4096 * 2)
    assert four.working(more) - step.working(more) == more.parameters
    kept = [step.saved(hand(replace(one.shape, remat="none"))) for one in (few, more)]
    weights = 2 * 4 * 4096 * (2 * 40 * 128 + 3 * 12288)  # their copies, bfloat16
    assert kept[1] - kept[0] - weights > 10 * 4 * 2 * 512 * 4096 * 2


def test_splash_attention_takes_half_of_the_square_and_of_trees_a_band() -> None:
    one = hand(replace(LARGE, dtype="bfloat16"), kernel="splash")
    documents, trees = (by_name(Step((Packed(1, 2048, 8, s),)).work(one)) for s in (True, False))
    assert documents["attention"].head_dim == trees["attention"].head_dim == 128
    block, part = block_size(2048), part_size(2048)
    of_query = 4 * 32 * 128 * 2048  # flops of a key
    seen = (2048 + block) / 2  # the diagonal's blocks are whole
    backward = (2048 + part) / 2
    assert documents["attention"].flops == of_query * (seen + 2.5 * backward)
    band = of_query * (8 + 2 * block + 2.5 * min(backward, 8 + 2 * part))  # branches of 8 tokens at most
    assert trees["attention"].flops == pytest.approx(documents["attention"].flops + band)
    assert not one.flash(2048, masked=True)
    assert not one.flash(512)


def test_decoding_holds_its_cache() -> None:
    one = hand(replace(LARGE, dtype="bfloat16"))
    assert Decoding(16, 128, 50, 16, False).working(one) > one.cache(16, 128 + 50 * 16)


def test_what_each_policy_computes_again() -> None:
    """Of Qwen3-8B's layer: products of attention 2 x 40 x 128 wide, the MLP's three of 12,288."""
    matrices = 2 * 40 * 128 + 3 * 12288
    shares = {
        remat: recomputed(replace(LARGE, remat=remat), flash=True)
        for remat in ("none", "products", "up", "attention", "full")
    }
    assert shares["none"] == shares["products"] == (0.0, 0.0)
    assert shares["up"] == (pytest.approx(12288 / matrices), 0.0)
    assert shares["attention"] == (pytest.approx(2 * 12288 / matrices), 0.0)
    assert shares["full"] == (pytest.approx(1 - 12288 / matrices), 1.0)
    assert recomputed(replace(LARGE, remat="attention"), flash=False).attention == 0.5


@pytest.mark.parametrize(
    ("remat", "lora"),
    [("none", LoraConfig()), ("full", LoraConfig()), ("none", LoraConfig(4)), ("full", LoraConfig(4))],
)
def test_by_hand_agrees_with_what_xla_compiles(remat: Policy, lora: LoraConfig) -> None:
    """FLOPs are the same but for small products; a CPU's memory is about as much."""
    shape = ModelShape("qwen3", 2048, 128, 3, 2, 1, 64, 384, 1e6, 1e-6, tied=True, remat=remat)
    settings = PretrainConfig(text="documents", steps=10, rows=2, row_length=256)
    model = ModelConfig(path="there") if lora.rank else ModelConfig()  # one made here is pretrained whole
    config = Config(pretrain=settings, lora=lora, model=model)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    whole = planned(config, shape, None, Material(10, 10, 10, 10, 10, ""), mesh, Chosen())
    step = next(program for program in whole.programs if program.name == "pretraining step")
    compiled = step.lower().compile()
    hand, memory = step.hand, compiled.memory_analysis()
    assert step.load.work(hand).flops == pytest.approx(read_program(compiled.as_text()).flops, rel=0.1)
    assert step.load.working(hand) == pytest.approx(memory.temp_size_in_bytes, rel=0.3)
    state = step.parameters + step.moments
    assert state == pytest.approx(memory.argument_size_in_bytes, rel=0.01)


def test_kernels_are_those_of_a_gpu_of_that_capability() -> None:
    for chip in CHIPS.values():
        kernel = kernel_for(chip.kind, PlatformConfig(), chip.capability)
        assert kernel == ("cudnn" if chip.kind == "gpu" else "splash")


def test_too_many_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="--topology=h100:1024: plan takes 512 GPUs at most"):
        prepare_target(topology("h100:1024"))


def test_tpus_need_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(target, "version", missing)
    how = r"libtpu, which is not installed: pip install 'pretrainrl_jax\[plan\]'"
    with pytest.raises(InputError, match=f"^plan compiles for TPUs with {how}$"):
        prepare_target(topology("v5e:2x4"))


@pytest.fixture
def plan_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """`plan` for one GPU within this process, whose JAX runs already and has the one device that it takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pretrainrl_jax.planning.target.prepare_target", lambda topology: None)
    return lambda *options: call("plan", *options, "--quiet")


def test_eight_gpus_hold_an_8b_model() -> None:
    """In a process of its own, whose CPU stands for them."""
    config = str(ROOT / "configs" / "popqa_qwen3_8b.py")
    command = ["-m", "pretrainrl_jax.main", "plan", "--config", config, "--topology", "h100:8"]
    ran = python(*command, "--json", "--quiet", PYTHONPATH=str(ROOT))
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert (told["chips"], told["fits"], told["compiled"]) == (8, True, False)
    step = next(program for program in told["programs"] if program["name"].startswith("training step"))
    memory = step["memory"]
    state = 12 * parameters(LARGE).total / 8
    assert memory["parameters"] + memory["optimizer"] == pytest.approx(state, rel=1e-3)
    assert memory["peak"] == memory["parameters"] + memory["optimizer"] + memory["temporary"]
    assert step["compiled_seconds"] is None
    assert {one["kind"] for one in step["collectives"]} == {"all-gather", "reduce-scatter"}
    assert step["seconds"]["shortest"] <= step["seconds"]["middle"] <= step["seconds"]["longest"]


def test_one_gpu_holds_an_8b_model_with_adapters(plan_here: Callable[..., Ran]) -> None:
    """Two bytes of each parameter that stays, twelve of each that learns; mining and evaluation have four."""
    settings = (
        "--model.path=Qwen3-8B-Base", "--pretrain.epochs=0", "--lora.rank=16", "--lora.base_dtype=bfloat16",
        "--model.dtype=bfloat16", "--model.remat=full", "--train.systems=rpo,rlvr",
        "--objectives.rlvr.grpo.kl=0.1", "--objectives.rpo.reference=base",
    )  # fmt: skip
    ran = plan_here(*settings, "--topology", "h100:1", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    memory = {program["name"]: program["memory"] for program in told["programs"]}
    assert told["fits"]
    sides = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288)  # 32 heads of 128, 8 for keys
    learned = 36 * 16 * sides
    for name in ("training step (rpo)", "training step (rlvr)", "sampling (rlvr)", "mining again (rpo)"):
        of = memory[name]
        assert of["parameters"] == pytest.approx(2 * parameters(LARGE).total + 4 * learned, rel=1e-4)
        moments = of["optimizer"] if name.startswith("training") else of["resident"]
        assert moments == 8 * learned  # no reference beside it
    assert memory["mining"]["parameters"] == pytest.approx(4 * parameters(LARGE).total, rel=1e-4)


LARGER = """\
from pretrainrl_jax.config import Config, FactsConfig, MeshConfig, ModelConfig, PretrainConfig, TrainConfig

config = Config(
    facts=FactsConfig(path="popQA.tsv"),
    mesh=MeshConfig(data=1, fsdp=-1),
    model=ModelConfig(path="Qwen3-32B", dtype="bfloat16", remat="full"),
    pretrain=PretrainConfig(epochs=0),
    train=TrainConfig(systems=("ntp",)),
)
"""


def test_one_gpu_does_not_hold_a_32b_model_and_says_what_would(
    tmp_path: Path, plan_here: Callable[..., Ran]
) -> None:
    (tmp_path / "larger.py").write_text(LARGER)
    ran = plan_here("--config", "larger.py", "--topology", "h200:1")
    assert ran.code == 1, ran.err
    advice = [line for line in ran.err.splitlines() if line.startswith("! training step")]
    assert len(advice) == 1
    assert advice[0].endswith("a slice of 8 chips or more")
    assert ran.out.count("nothing was compiled") == 1
