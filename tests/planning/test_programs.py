"""Which programs a configuration has, how much of each a run is, and that each is what its stage compiles."""

import math
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from pretrainrl_jax.command_line import read_config
from pretrainrl_jax.config import (
    OBJECTIVES,
    CheckpointConfig,
    Config,
    GrpoConfig,
    JudgeConfig,
    LoraConfig,
    MeshConfig,
    MethodConfig,
    MineConfig,
    ModelConfig,
    PreferencesConfig,
    PretrainConfig,
    RewriterConfig,
    RolloutsConfig,
    SelfimproveConfig,
    TrainConfig,
)
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.chips import topology
from pretrainrl_jax.planning.figures import Figures
from pretrainrl_jax.planning.planned import Decoding, Planned, Scoring, Step
from pretrainrl_jax.planning.programs import improves, planned
from pretrainrl_jax.planning.typical import Material, trees

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPE = ModelShape("qwen3", 512, 32, 2, 2, 1, 16, 64, 1e4, 1e-6, tied=True)
QUESTIONS = Material(trained=1000, referenced=2000, pooled=700, asked=3000, own=1500, source="")
BARE = Config(model=ModelConfig(path="a model"), pretrain=PretrainConfig(epochs=0))


def of(
    config: Config,
    material: Material = QUESTIONS,
    judge: ModelShape | None = None,
    rewriter: ModelShape | None = None,
) -> Planned:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return planned(config, SHAPE, judge, material, mesh, Chosen(), rewriter)


def names(whole: Planned) -> list[str]:
    return [program.name for program in whole.programs]


EVALUATION = [f"evaluation, {what}" for what in ("greedy", "beams", "truths", "samples")]


def test_a_run_on_facts_mines_trains_and_evaluates() -> None:
    train = TrainConfig(systems=("ntp", "ntp_weighted", "pretrainrl", "anchored"), passes=2, questions=50)
    config = replace(BARE, train=train)
    whole = of(config)
    assert names(whole) == [
        "mining",
        "mining's references",
        "anchor text",
        "training step (ntp)",
        "training step (ntp_weighted)",
        "training step (pretrainrl)",
        "training step (anchored)",
        *EVALUATION,
    ]
    by_name = {program.name: program for program in whole.programs}
    assert by_name["mining"].executions == math.ceil(1000 / config.mine.batch)
    step = by_name["training step (ntp_weighted)"]
    assert (step.updates, step.executions) == (40, 40)
    assert by_name["evaluation, beams"].executions == 5 * math.ceil(3000 / config.evaluate.batch)
    assert by_name["evaluation, samples"].executions == 5 * math.ceil(1500 / config.evaluate.batch)
    anchored = by_name["training step (anchored)"].load
    assert isinstance(anchored, Step)
    assert len(anchored.packed) == 2
    assert [program.trains for program in whole.programs] == [False] * 3 + [True] * 4 + [False] * 4


def test_the_last_batch_of_each_part_is_filled_up() -> None:
    whole = of(replace(BARE, checkpoint=CheckpointConfig(shard_questions=300), mine=MineConfig(batch=128)))
    mining = whole.programs[0]
    assert mining.executions == 3 * 3 + 1  # 300, 300, 300 and 100 questions, 128 at a time
    whole = CheckpointConfig(shard_questions=1000)
    full = of(replace(BARE, checkpoint=whole, mine=MineConfig(batch=125))).programs[0]
    assert mining.tokens / full.tokens == pytest.approx(100 / 125)


def test_an_evaluation_has_the_programs_that_its_settings_ask_for() -> None:
    config = replace(BARE, train=TrainConfig(systems=("ntp",)))
    few = replace(config, evaluate=replace(config.evaluate, beams=1, samples=0))
    assert names(of(few))[-3:] == ["training step (ntp)", EVALUATION[0], EVALUATION[2]]
    assert names(of(config, QUESTIONS._replace(own=0)))[-4:] == ["training step (ntp)", *EVALUATION[:3]]
    assert names(of(config, QUESTIONS._replace(asked=0)))[-1] == "training step (ntp)"


def test_preferences_without_a_system_have_their_references_alone() -> None:
    config = replace(BARE, preferences=PreferencesConfig(path="x"), train=TrainConfig(systems=()))
    compared = Material(600, 700, 0, 100, 0, "", tuple(trees(40, "bare", 1)))
    assert names(of(config, compared)) == ["references"]


def test_adapters_are_lowered_in_float32_beside_a_base_in_its_own_dtype() -> None:
    how = GrpoConfig(1.0, samples=3)
    config = replace(
        BARE,
        lora=LoraConfig(2, base_dtype="bfloat16", targets=("query", "down")),
        objectives=OBJECTIVES | {"rlvr": replace(OBJECTIVES["rlvr"], grpo=how)},
        train=TrainConfig(systems=("rlvr",)),
    )
    sampling, step = [program for program in of(config).programs if program.hand.shape.lora][:2]
    assert (isinstance(sampling.load, Decoding), step.trains) == (True, True)
    adapters = 2 * (32 * 2 + 2 * 2 * 16 + 64 * 2 + 2 * 32)  # of two layers
    for program, times in ((sampling, 1), (step, 3)):  # with its moments
        taken, _ = program.lower().args_info
        learned, kept = (
            sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part) if leaf.dtype.name == dtype)
            for part, dtype in ((taken[0], "float32"), (taken, "bfloat16"))
        )
        assert (learned, kept) == (times * adapters, parameters(SHAPE).total)


def test_mining_again_is_counted_with_what_waits_beside_it() -> None:
    objectives = OBJECTIVES | {"rpo": replace(OBJECTIVES["rpo"], remine_every=10)}
    train = TrainConfig(systems=("rpo",), passes=2, questions=50)
    once, again = (
        of(replace(BARE, objectives=each, train=train))
        for each in (objectives | {"rpo": replace(objectives["rpo"], remine_every=0)}, objectives)
    )
    assert "mining again (rpo)" not in names(once)
    by_name = {program.name: program for program in again.programs}
    for first, more in (("mining", "mining again (rpo)"), ("mining's references", "references again (rpo)")):
        assert by_name[more].executions == 3 * (by_name[first].executions or 0)  # 40 steps, ten at a time
        assert by_name[first].resident == 0
        assert by_name[more].resident == 2 * by_name[more].learned  # the moments
    kept = objectives | {"rpo": replace(objectives["rpo"], reference="base")}
    beside = of(replace(BARE, objectives=kept, train=train)).programs[2]
    assert (beside.name, beside.resident) == ("mining again (rpo)", 3 * beside.parameters)  # and a base


def test_beams_are_counted_where_they_are_a_source() -> None:
    """References are always computed; of a pool's falsehoods beams are drawn for categories alone."""
    config = replace(BARE, train=TrainConfig(systems=("ntp",)))
    none = replace(config, mine=MineConfig(sources=()))
    assert names(of(none)) == ["mining's references", "training step (ntp)", *EVALUATION]
    pool = of(replace(config, mine=MineConfig(sources=("pool",)))).programs[0]
    beam = of(replace(config, mine=MineConfig(sources=("beam", "pool")))).programs[0]
    batch = config.mine.batch
    assert [one.name for one in (pool, beam)] == ["mining", "mining"]
    assert (pool.executions, beam.executions) == (math.ceil(700 / batch), math.ceil(1000 / batch))


def test_references_score_all_that_falsehoods_are_drawn_from() -> None:
    """Of pools that is more than a step has."""
    config = replace(BARE, train=TrainConfig(systems=("pretrainrl",)))
    beam, pool = (
        {
            program.name: program
            for program in of(replace(config, mine=MineConfig(sources=(source,)))).programs
        }
        for source in ("beam", "pool")
    )
    few, more = (
        one["mining's references"].tokens * (one["mining's references"].executions or 0)
        for one in (beam, pool)
    )
    assert more > 1.8 * few  # 20 answers of about 2 tokens beside 13 of the question, and not 5
    assert pool["training step (pretrainrl)"].tokens == beam["training step (pretrainrl)"].tokens


def test_what_no_program_here_does_is_named() -> None:
    assert of(BARE).uncounted == ()
    train = TrainConfig(systems=("ntp", "rlvr"), device_seconds=60.0)
    objectives = OBJECTIVES | {"rlvr": replace(OBJECTIVES["rlvr"], grpo=GrpoConfig(1.0, teach=0.5))}
    mine = MineConfig(sources=("beam", "constrained"))
    config = replace(BARE, train=train, objectives=objectives, mine=mine)
    assert of(config).uncounted == ("train.device_seconds", "grpo.teach", "mine.sources=constrained")


@pytest.mark.parametrize(("updates", "kl", "measured"), [(1, 0.0, 0), (1, 0.1, 1), (3, 0.0, 1), (3, 0.1, 2)])
def test_answers_that_are_learned_from_are_sampled_and_measured(
    updates: int, kl: float, measured: int
) -> None:
    how = GrpoConfig(1.0, kl=kl, updates=updates, samples=6)
    config = replace(
        BARE,
        objectives=OBJECTIVES | {"rlvr": replace(OBJECTIVES["rlvr"], grpo=how)},
        train=TrainConfig(systems=("rlvr",), passes=2, questions=50),
    )
    sampling, step, *others = of(config).programs[2 : -len(EVALUATION)]
    assert isinstance(sampling.load, Decoding)
    assert sampling.load.branches == 6
    assert sampling.executions == 40
    assert step.updates == 40 * updates
    assert sum(program.executions or 0 for program in others) == 40 * measured
    held = step.parameters
    assert step.resident == (held if kl else 0)
    assert sampling.resident == 2 * held + step.resident


def test_preferences_are_scored_and_learned() -> None:
    config = replace(BARE, preferences=PreferencesConfig(path="x"), train=TrainConfig(systems=("dpo",)))
    compared = Material(600, 700, 0, 100, 0, "", tuple(trees(40, "bare", 1)))
    whole = of(config, compared)
    assert names(whole) == ["references", "training step (dpo)", "evaluation"]
    few, many = whole.programs[2], of(replace(config, train=TrainConfig(systems=("dpo", "ntp"))), compared)
    assert many.programs[-1].executions == 2 * (few.executions or 0)


def test_steps_that_are_not_known_are_no_number() -> None:
    """Of a corpus, or of all documents: it is not known before they are read."""
    config = Config(train=TrainConfig(systems=("ntp",)))
    for each in (config, replace(config, model=ModelConfig(path="a model"))):
        whole = of(each)
        assert (names(whole)[0], whole.programs[0].executions) == ("pretraining step", None)
    documents = PretrainConfig(text="documents", steps=7)
    assert of(replace(config, pretrain=documents)).programs[0].executions == 7


@pytest.mark.parametrize(
    "name", ["quickstart", "recommended", "popqa_qwen3_8b", "front_small", "preferences"]
)
def test_a_configuration_that_says_nothing_of_it_is_not_for_self_improvement(name: str) -> None:
    assert not improves(read_config(str(CONFIGS / f"{name}.py")))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("selfimprove_*.py")), ids=lambda path: path.stem)
def test_those_for_self_improvement_sample_and_learn(path: Path) -> None:
    config = read_config(str(path))
    assert improves(config)
    whole = of(config, judge=SHAPE)
    for name in config.selfimprove.systems:
        own = [program for program in whole.programs if program.name.startswith(f"{name} ")]
        method = config.methods[name]
        assert sum(isinstance(program.load, Step) for program in own) == 1
        assert sum(isinstance(program.load, Scoring) for program in own) == method.contrasts
        assert sum(isinstance(program.load, Decoding) for program in own) == ("rollout" in method.candidates)
    asked = config.judge.path and any(config.methods[s].judged for s in config.selfimprove.systems)
    assert bool(whole.verdicts) == bool(asked)


REWRITES = MethodConfig(candidates=("original", "rewrite", "rollout"))
IMPROVES = replace(
    BARE,
    methods={"rewrites": REWRITES, "plain": MethodConfig(candidates=("original", "rollout"))},
    selfimprove=SelfimproveConfig(systems=("rewrites", "plain"), steps=7, documents=24, suffix=8, length=40),
    rollouts=RolloutsConfig(count=3, batch=16),
    judge=JudgeConfig(path="a judge", quality=1.0),
    rewriter=RewriterConfig(path="a rewriter"),
)
REWRITER = replace(SHAPE, layers=3, dtype="bfloat16")


def test_a_model_that_rewrites_is_resident_and_samples() -> None:
    """Beside the programs of the methods that ask it, and beside nothing else."""
    without, whole = (of(IMPROVES, judge=SHAPE, rewriter=rewriter) for rewriter in (None, REWRITER))
    before = {program.name: program for program in without.programs}
    after = {program.name: program for program in whole.programs}
    assert [*after] == [
        "rewrites sampling", "rewrites rewriting", "rewrites step", "rewrites references",
        "plain sampling", "plain step", "plain references",
    ]  # fmt: skip
    own = 2.0 * parameters(REWRITER).total  # bfloat16
    rewriting = after.pop("rewrites rewriting")
    assert before.keys() == after.keys()
    for name, program in after.items():
        assert program.resident - before[name].resident == (own if name.startswith("rewrites") else 0.0)
        assert program.learned
    assert (rewriting.parameters, rewriting.hand.shape) == (own, REWRITER)
    # What the policy's own sampling has as its arguments waits here, and so do its moments, reference, judge.
    assert rewriting.resident == before["rewrites step"].parameters + before["rewrites sampling"].resident
    assert rewriting.load == Decoding(16, 512, 1, 8, True)  # 32 of a prefix, 8 of a suffix, 300 around them
    assert rewriting.executions == 7 * math.ceil(24 / 16)
    wider = replace(IMPROVES, rewriter=RewriterConfig(path="a rewriter", dtype="float32", prefix_tokens=4))
    one = next(program for program in of(wider, rewriter=REWRITER).programs if not program.learned)
    assert (one.parameters, one.hand.shape.dtype) == (own, "float32")


def test_the_program_that_rewrites_is_the_rewriters() -> None:
    """Of its layers, from parameters as they are stored."""
    whole = of(IMPROVES, rewriter=REWRITER)
    program = whole.programs[1]
    (params, *_), _ = program.lower().args_info
    leaves = jax.tree.leaves(params)
    assert {leaf.dtype.name for leaf in leaves} == {"bfloat16"}
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters(REWRITER).total
    memory = Figures(program, topology("v5e:4x4"), 0.0, 0.0, None).memory
    assert memory["parameters"] == 2.0 * parameters(REWRITER).total


def test_who_rewrites_elsewhere_or_not_at_all_takes_nothing() -> None:
    plain = replace(IMPROVES, selfimprove=replace(IMPROVES.selfimprove, systems=("plain",)))
    assert "plain rewriting" not in names(of(plain, rewriter=REWRITER))
    assert of(plain, rewriter=REWRITER).programs[0].resident == of(plain).programs[0].resident
    assert all(program.learned for program in of(IMPROVES).programs)
    assert improves(replace(BARE, rewriter=RewriterConfig(path="a rewriter")))


def test_every_program_is_lowered() -> None:
    how = GrpoConfig(1.0, kl=0.1, updates=2, samples=3)
    config = replace(
        BARE,
        objectives=OBJECTIVES | {"rlvr": replace(OBJECTIVES["rlvr"], grpo=how)},
        train=TrainConfig(systems=("pretrainrl", "anchored", "rlvr"), grad_accum_steps=2),
        pretrain=PretrainConfig(text="documents", steps=7),
    )
    for program in of(config).programs:
        assert "stablehlo" in program.lower().as_text()[:20_000]
    small = read_config(str(CONFIGS / "selfimprove_small.py"))
    for program in of(small).programs[:4]:
        assert program.lower().args_info
