"""Whole runs whose negatives come from every source, are drawn anew, mined again, or do not fit."""

import itertools
import json
import math
import shutil
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.command_line import (
    Ran,
    Signalled,
    assert_same_parameters,
    call,
    complaint,
    metrics,
    repeatable,
    unfinish,
)
from helpers.models_and_trees import fact as about_arno

from pretrainrl_jax.command_line import read_config
from pretrainrl_jax.config import Config, DpoConfig
from pretrainrl_jax.facts.matching import normalise, overlaps
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining import fingerprint
from pretrainrl_jax.mining.candidates import Candidate
from pretrainrl_jax.mining.rounds import Span, spans
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.stages.asking import Asker
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.mine import build_trees, collect_pools, sample_by_category, searched
from pretrainrl_jax.training import feed
from pretrainrl_jax.trees.dataset import PackedRows, ProcessShard
from pretrainrl_jax.trees.records import read_trees
from pretrainrl_jax.trees.templates import Encoded, Template
from pretrainrl_jax.workdir import read_workdir

SETTINGS = (
    "--mine.sources=beam,pool,popularity",
    "--mine.pool=6",
    "--mine.popular_share=0.5",
    "--mine.agreement_questions=10",
    "--train.systems=rpo,pretrainrl",
    "--objectives.rpo.remine_every=2",
    "--objectives.pretrainrl.remine_every=3",
)  # evaluated with as many beams as mined with: one program


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tiny_config: Path, compiled: Path) -> tuple[Path, Ran]:
    """A workdir in which `run` mined from all sources, and again while training."""
    workdir = tmp_path_factory.mktemp("mixed") / "run"
    ran = call("run", "--config", tiny_config, "--workdir", workdir, *SETTINGS)
    assert ran.code == 0, ran.err
    return workdir, ran


@pytest.fixture(scope="module")
def context(mixed) -> Context:
    config = read_workdir(mixed[0])
    return Context(config, mixed[0], make_mesh(config.mesh), read_facts(config).facts)


def mined(workdir: Path, name: str = "trees"):
    return read_trees(workdir / "mined" / f"{name}.array_record")


def test_every_source_gives_negatives_and_none_is_true(mixed, context: Context) -> None:
    trees = mined(mixed[0])
    by_id: dict[str, Fact] = {fact.id: fact for fact in context.trained}
    assert [tree.id for tree in trees] == list(by_id)
    sources = Counter()
    for tree in trees:
        gold, *negatives = tree.branches
        fact = by_id[tree.id]
        assert (gold.role, gold.text) == ("chosen", fact.answer)
        assert len({normalise(b.text) for b in negatives}) == len(negatives)
        truths = [a for f in context.facts if f.subject_key == fact.subject_key for a in f.answers]
        assert not any(overlaps(b.text, truth) for b in negatives for truth in truths)
        by_source = Counter(b.source for b in negatives)
        assert by_source["beam"] <= 3
        assert max(by_source["pool"], by_source["popularity"]) <= 6
        assert all(math.isfinite(b.reference_logp) for b in tree.branches)
        assert all(math.isfinite(b.behaviour_logp) == (b.source == "beam") for b in negatives)
        sources += by_source
    assert set(sources) == {"beam", "pool", "popularity"}
    statistics = json.loads((mixed[0] / "mined" / "statistics.json").read_text())
    assert statistics["by_source"] == sources
    assert statistics["fewer_than_asked"] == sum(len(tree.branches) < 4 for tree in trees)


def test_negatives_among_known_answers_are_answers_of_the_category_and_false(
    workdir: Path, tmp_path: Path
) -> None:
    """And of a file, where one is given; training refuses what was mined among other answers."""
    config = read_workdir(workdir)
    facts = {fact.id: fact for fact in read_facts(config).facts}
    unfinish(workdir, lambda stage: stage.startswith(("mine", "train", "evaluate")))
    settings = json.loads((workdir / "config.json").read_text())
    settings["mine"] |= {"sources": ["constrained"], "beams": 6}
    (workdir / "config.json").write_text(json.dumps(settings))
    ran = call("mine", "--workdir", workdir)
    assert ran.code == 0, ran.err
    number = 0
    for tree in mined(workdir):
        negatives = tree.branches[1:]
        of_category = {f.answer for f in facts.values() if f.category == facts[tree.id].category}
        assert {b.text for b in negatives} < of_category
        truths = [a for f in facts.values() if f.subject_key == facts[tree.id].subject_key for a in f.answers]
        assert not any(overlaps(b.text, truth) for b in negatives for truth in truths)
        for branch in negatives:  # the prompts of mining and training are the same
            assert branch.source == "constrained"
            assert branch.behaviour_logp == pytest.approx(branch.reference_logp, abs=1e-4)
        number += len(negatives)
    statistics = json.loads((workdir / "mined" / "statistics.json").read_text())
    assert statistics["by_source"] == {"constrained": number}
    assert number == 3 * len(mined(workdir))
    assert statistics["dropped"]["constrained"]["unfinished"] == 0

    listed = tmp_path / "answers.txt"
    listed.write_text("Atlantis\nEl Dorado\n")
    settings["mine"] |= {"among": str(listed)}
    (workdir / "config.json").write_text(json.dumps(settings))
    unfinish(workdir, lambda stage: stage.startswith("mine"))
    assert call("mine", "--workdir", workdir).code == 0
    said = {b.text for tree in mined(workdir) for b in tree.branches if b.role == "rejected"}
    assert said == {"Atlantis", "El Dorado"}
    assert call("train", "--workdir", workdir, "--train.systems=pretrainrl").code == 0
    listed.write_text("Atlantis\nShangri-La\n")
    assert "answers of mine.among was" in complaint_of_last_line(train_again(workdir))


def test_pool_values_are_what_the_model_answers_most_often(mixed, context: Context) -> None:
    statistics = json.loads((mixed[0] / "mined" / "statistics.json").read_text())
    for category, one in statistics["categories"].items():
        pool = one["pool"]
        assert 0 < len(pool) <= 6
        said = {b.text for t in mined(mixed[0]) for b in t.branches if b.source == "pool"}
        assert one["agreement"]["questions"] == 10
        assert (
            one["agreement"]["of"] == one["questions"] == sum(f.category == category for f in context.trained)
        )
        assert said & set(pool)


def test_improbable_beams_are_not_counted_for_a_pool(mixed, context: Context, tmp_path: Path) -> None:
    """Collected again from the same beams with a threshold: the pool is the values that reach it."""
    base = context.load("pretrain")
    asker = Asker(context, base, context.config.mine)
    search = partial(asker.beams, context.config.mine.beams)
    decoded = searched(asker, context.trained, tmp_path, {}, "test", search)
    category = context.trained[0].category
    chances = Counter()
    for fact, answers in decoded:
        if fact.category == category:
            for answer in answers:
                if answer.finished and normalise(answer.text):
                    chances[normalise(answer.text)] = max(
                        chances[normalise(answer.text)], math.exp(answer.logp)
                    )
    threshold = sorted(chances.values())[len(chances) // 2]
    settings = replace(context.config.mine, min_probability=threshold, pool=1000)
    other = replace(context, config=replace(context.config, mine=settings))
    pools, _ = collect_pools(other, decoded)
    expected = {value for value, chance in chances.items() if chance >= threshold}
    assert 0 < len(expected) < len(chances)
    assert {normalise(value) for value in pools[category]} == expected


def test_a_refresh_with_renewed_references_starts_again_from_ln_2(mixed) -> None:
    """At each round's first step the policy is its own reference; before and after it is not."""
    of_rounds = sorted((mixed[0] / "mined" / "rpo").glob("*.array_record"))
    assert len(of_rounds) >= 2
    losses = [line["loss_dpo"] for line in metrics(mixed[0], "train/rpo")]
    at_start = [i for i, loss in enumerate(losses) if abs(loss - math.log(2)) < 2e-6]
    assert len(at_start) == len(of_rounds) + 1
    assert at_start[0] == 0
    said = [line for line in mixed[1].out.splitlines() if line.startswith("train/rpo: mined again after")]
    assert [int(line.split("step ")[1].split(":")[0]) for line in said] == at_start[1:]
    assert all(1 <= b - a <= 3 for a, b in itertools.pairwise(at_start))  # remine_every is 2


def test_a_refresh_with_base_references_scores_new_trees_with_the_base_model(mixed, context: Context) -> None:
    (path, *_) = sorted((mixed[0] / "mined" / "pretrainrl").glob("*.array_record"))
    trees = read_trees(path)
    base = context.load("pretrain")
    scores = score_trees(base.model, base.params, trees, row_length=64, rows=4)
    for tree, logps in zip(trees, scores, strict=True):
        assert logps == pytest.approx([b.reference_logp for b in tree.branches], abs=1e-4, rel=1e-5)
    losses = [line["loss_dpo"] for line in metrics(mixed[0], "train/pretrainrl")]
    assert sum(abs(loss - math.log(2)) < 2e-6 for loss in losses) == 1  # at the very first step alone


def test_what_has_no_tokens_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = [[(5, 0), (0,), (6, 0)], [(0,), (6, 0)]]
    encoded = Encoded([(1,), (2,)], branches, 0)
    monkeypatch.setattr("pretrainrl_jax.stages.mine.encode_branches", lambda *_: encoded)
    said = list[str]()
    context: Any = SimpleNamespace(
        config=Config(), template=lambda _: Template("bare"), screen=SimpleNamespace(say=said.append)
    )
    facts = [about_arno(), about_arno(("!",), id="2")]
    candidates = [[Candidate("?", "beam"), Candidate("Rome", "pool")], [Candidate("Rome", "beam")]]
    dropped = {"beam": Counter[str](), "pool": Counter[str]()}
    policy: Any = SimpleNamespace(tokenizer=None)
    (tree,), left_out = build_trees(context, policy, facts, candidates, dropped)
    assert [(b.text, b.tokens, b.source) for b in tree.branches[1:]] == [("Rome", (6, 0), "pool")]
    assert dropped == {"beam": {"empty": 1}, "pool": {}}
    assert (left_out["no_tokens"], left_out["too_long"]) == (["2"], [])
    assert said == ["mine: left out, since their answer has no tokens: 1 questions (2)"]


def test_pools_are_collected_from_so_many_questions_of_each_category() -> None:
    facts = [about_arno(id=f"{n}", category="ab"[n % 2]) for n in range(20)]
    context: Any = SimpleNamespace(config=Config())
    some = sample_by_category(context, facts, 3)
    assert Counter(one.category for one in some) == {"a": 3, "b": 3}
    assert {one.id for one in some} <= {one.id for one in sample_by_category(context, facts, 4)}
    assert len(sample_by_category(context, facts, 0)) == 20


def test_rounds_share_all_visits_between_them() -> None:
    objective = replace(read_config("").objectives["rpo"], remine_every=75)
    four = spans(objective, facts=2000, passes=3, steps=240)
    assert len(four) == 4
    assert all(a.stop == b.start for a, b in itertools.pairwise(four))
    assert (four[0].start, four[0].stop, four[-1].stop) == (0, 75 * 25 / 2000, 3)  # 25 questions a step
    alone = [replace(objective, remine_every=0), replace(objective, dpo=DpoConfig())]
    assert [spans(o, 2000, 3, 240) for o in alone] == [[Span(0.0, 3)]] * 2


@pytest.mark.parametrize("where", ["within a round", "at a round's end"])
def test_a_run_stopped_between_rounds_goes_on_bit_for_bit(
    where: str,
    mixed,
    tiny_config: Path,
    tmp_path: Path,
    signalled: type[Signalled],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And each round's rows have the first one's shape: nothing is compiled again."""
    shapes = []

    def noted(source: PackedRows, *rest: Any) -> ProcessShard:
        shapes.append(source.capacity)
        return ProcessShard(source, *rest)

    monkeypatch.setattr(feed, "ProcessShard", noted)
    finished = mixed[0]
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    stage = "train/rpo"
    unfinish(workdir, lambda name: name == stage)
    # Another training's falsehoods are there, and must not be taken for this one's.
    shutil.copy(workdir / "mined" / "trees.array_record", workdir / "mined" / "rpo" / "round1.array_record")
    losses = [line["loss_dpo"] for line in metrics(finished, stage)]
    starts = [i for i, loss in enumerate(losses) if abs(loss - math.log(2)) < 2e-6]  # steps before each round
    words = ("train", "--workdir", workdir)
    monkeypatch.setattr(signalled, "number", signal.SIGTERM)
    monkeypatch.setattr(signalled, "when", (stage, starts[1] + (where == "within a round")))
    assert call(*words).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert_same_parameters(workdir, finished, stage)
    assert repeatable(metrics(workdir, stage)) == repeatable(metrics(finished, stage))
    assert len(shapes) >= len(starts) > 2
    assert all(shape == shapes[0] for shape in shapes)


def test_the_literal_layout_makes_the_same_step(finished: Path, tmp_path: Path) -> None:
    """Mining and training with `{Question}{pos}<pad>{Question}{neg}`: the same but for rounding."""
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    settings = json.loads((workdir / "config.json").read_text())
    settings["train"] |= {"layout": "literal", "row_length": 128, "questions": 1000}
    (workdir / "config.json").write_text(json.dumps(settings))
    unfinish(workdir, lambda stage: stage.startswith(("mine", "train", "evaluate")))
    words = ("--workdir", workdir, "--train.systems=pretrainrl")
    for verb in ("mine", "train"):
        ran = call(verb, *words)
        assert ran.code == 0, ran.err
    literal = metrics(workdir, "train/pretrainrl")
    settings["train"]["layout"] = "shared"
    (workdir / "config.json").write_text(json.dumps(settings))
    unfinish(workdir, lambda stage: stage.startswith("train"))
    assert call("train", *words).code == 0
    shared = metrics(workdir, "train/pretrainrl")
    (one,), (other,) = literal, shared  # a single step of all questions, so nothing has drifted yet
    for name in ("loss", "loss_dpo", "loss_ntp", "logp_gold", "logp_negative", "grad_norm"):
        assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


# What does not fit.


def train_again(workdir: Path) -> Ran:
    unfinish(workdir, lambda stage: stage == "train/pretrainrl")
    return call("train", "--workdir", workdir)


def test_the_same_model_trained_again_is_the_same(workdir: Path, tiny_config: Path) -> None:
    unfinish(workdir, lambda stage: stage == "pretrain")
    assert call("pretrain", "--config", tiny_config, "--workdir", workdir).code == 0
    ran = train_again(workdir)
    assert ran.code == 0, ran.err


def test_another_model_is_refused(workdir: Path) -> None:
    checkpoints = workdir / "checkpoints"
    shutil.rmtree(checkpoints / "pretrain")
    shutil.copytree(checkpoints / "train" / "ntp_answer", checkpoints / "pretrain")
    said = complaint_of_last_line(train_again(workdir))
    assert "model was" in said
    assert "facts" not in said
    assert said.endswith("Run `mine` with this workdir again")


def test_other_facts_are_refused_until_they_are_mined_again(workdir: Path) -> None:
    settings = json.loads((workdir / "config.json").read_text())
    settings["facts"]["holdout_every"] = 5
    (workdir / "config.json").write_text(json.dumps(settings))
    said = complaint_of_last_line(train_again(workdir))
    assert "facts was" in said
    assert "model" not in said.split("something else")[1]
    assert call("mine", "--workdir", workdir).code == 0
    assert call("train", "--workdir", workdir).code == 0


def test_other_mining_settings_are_refused(workdir: Path) -> None:
    settings = json.loads((workdir / "config.json").read_text())
    settings["mine"]["beams"] = 7
    (workdir / "config.json").write_text(json.dumps(settings))
    assert "mining settings: beams was 4, now 7" in complaint_of_last_line(train_again(workdir))


def test_log_probabilities_that_come_out_otherwise_are_refused(workdir: Path) -> None:
    path = workdir / "mined" / "fingerprint.json"
    stamp = json.loads(path.read_text())
    probe = next(iter(stamp["probes"]))
    stamp["probes"][probe][0] += 0.5
    path.write_text(json.dumps(stamp))
    assert "log-probabilities computed again are 0.5 nats away" in complaint_of_last_line(
        train_again(workdir)
    )
    path.unlink()
    assert "does not say what it was mined with" in complaint_of_last_line(train_again(workdir))


def complaint_of_last_line(ran: Ran) -> str:
    """The refusal of a command that had shown progress before."""
    return complaint(ran._replace(err=ran.err.splitlines()[-1] + "\n"))


def test_pools_of_facts_without_categories_are_refused(
    tiny_config: Path, finished: Path, tmp_path: Path
) -> None:
    rows = [{"question": f"Who is {i}?", "answer": f"name {i}"} for i in range(20)]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    words = ("--config", tiny_config, "--workdir", tmp_path / "run", f"--facts.path={path}")
    ran = call("run", *words, "--mine.sources=pool")
    assert "mine.sources has pool, and some facts have no category" in complaint(ran)
    assert "facts.columns.category" in ran.err
    assert not (tmp_path / "run").exists()  # said before anything is trained
    for setting in ("--mine.sources=constrained", "--evaluate.among=category"):
        ran = call("run", *words, setting)
        assert "among is category, and some facts have no category" in complaint(ran)
    for setting in ("--mine.sources=constrained --mine.among", "--evaluate.among"):
        ran = call("run", *words, *f"{setting}={tmp_path}/none.txt".split())
        said = complaint(ran)
        assert f"cannot read {tmp_path}/none.txt: No such file" in said
        assert f"check {setting.rpartition('--')[2]}" in said


def test_tolerances_are_far_above_what_packing_changes(context: Context) -> None:
    trees = mined(context.workdir)[: fingerprint.PROBES]
    base = context.load("pretrain")
    for length, rows in ((64, 1), (200, 3)):
        again = score_trees(base.model, base.params, trees, row_length=length, rows=rows)
        known = {t.id: [b.reference_logp for b in t.branches] for t in trees}
        now = dict(zip(known, again, strict=True))
        assert fingerprint.probe_difference(known, now) < fingerprint.TOLERANCE["float32"] / 10
