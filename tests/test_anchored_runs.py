"""Whole runs with an anchor: at its beginning nothing is paid, it goes on exactly, and it keeps the base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import Signalled, assert_same_parameters, call, complaint, metrics, unfinish

from pretrainrl_jax.config import AnchorConfig
from pretrainrl_jax.config.stored import upgraded
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.stages import anchor
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.loading import load
from pretrainrl_jax.trees.anchors import read_anchors
from pretrainrl_jax.workdir import read_workdir

ANCHOR = ("--anchor.tokens=200", "--anchor.length=40", "--anchor.top=16", "--anchor.questions=5")
SYSTEMS = "--train.systems=ntp_answer,anchored"


@pytest.fixture(scope="module")
def anchored(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, compiled: Path) -> Path:
    """A workdir with an answer-only and an anchored system, at a rate at which the first forgets."""
    workdir = tmp_path_factory.mktemp("anchored") / "work"
    rates = [f"--objectives.{name}.learning_rate=1e-2" for name in ("ntp_answer", "anchored")]
    ran = call(
        "run", "--config", tiny_config, "--workdir", workdir, SYSTEMS, *ANCHOR, *rates, "--train.passes=6",
        "--objectives.anchored.anchor.weight=4",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return workdir


def test_at_step_0_the_anchor_costs_nothing_and_has_no_gradient(anchored: Path) -> None:
    lines = {name: metrics(anchored, f"train/{name}") for name in ("ntp_answer", "anchored")}
    first, plain = lines["anchored"][0], lines["ntp_answer"][0]
    assert first["step"] == 1
    assert abs(first["loss_anchor"]) <= 1e-6
    assert first["loss"] == pytest.approx(first["loss_ntp"], abs=1e-5)
    assert first["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    assert max(line["loss_anchor"] for line in lines["anchored"]) > 1e-3
    assert not any("loss_anchor" in line for line in lines["ntp_answer"])


def test_the_anchor_keeps_what_the_model_was(anchored: Path) -> None:
    systems = json.loads((anchored / "report" / "summary.json").read_text())["systems"]
    rise = {name: systems[name]["text_nll"] - systems["base"]["text_nll"] for name in systems}
    assert rise["ntp_answer"] > 0.1
    assert rise["anchored"] < rise["ntp_answer"] / 2


def test_the_text_is_kept_with_the_trees(anchored: Path) -> None:
    texts = read_anchors(anchored / "mined" / "anchor.npz")
    written = [len(one.reads) for one in texts]
    assert sum(written) >= 200 > sum(written[:-1])
    loaded, config = load(anchored), read_workdir(anchored)
    context = Context(config, anchored, loaded.model.mesh, read_facts(config).facts)
    read = {ids[0] for ids in loaded.tokenizer.encode_all(context.corpus.training)}
    begun = {one.tokens[0] for one in texts}  # the context: pretraining read no EOS before a text
    assert begun <= read
    assert len(begun) > 1
    for one in texts:
        assert 2 <= len(one.tokens) <= 41
        assert one.top_tokens.shape == (len(one.reads), 16)
        assert (np.diff(one.top_logps, axis=-1) <= 0).all()
        whole = np.exp(one.top_logps.astype(np.float64)).sum(-1) + np.exp(one.rest_logp.astype(np.float64))
        np.testing.assert_allclose(whole, 1, atol=1e-5)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    anchored: Path, tmp_path: Path, tiny_config: Path, signalled: type[Signalled], monkeypatch
) -> None:
    workdir = Path(shutil.copytree(anchored, tmp_path / "work"))
    unfinish(workdir, lambda stage: stage.endswith("/anchored"))
    monkeypatch.setattr(signalled, "when", ("train/anchored", 7))
    words = ("train", "--workdir", workdir)
    assert call(*words).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert "goes on after step 7" in ran.out + ran.err
    assert_same_parameters(workdir, anchored, "train/anchored")


def test_ones_own_text_is_cut_and_read(anchored: Path, tmp_path: Path, tiny_config: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("One line of text.\n\n" + "A long one. " * 60)
    words = ("--config", tiny_config, "--train.systems=anchored", *ANCHOR, "--train.passes=1")
    ran = call("run", *words, "--workdir", tmp_path / "own", f"--anchor.path={file}")
    assert ran.code == 0, ran.err
    texts = read_anchors(tmp_path / "own" / "mined" / "anchor.npz")
    assert len(texts[0].tokens) < 41
    assert {len(one.tokens) for one in texts[1:-1]} == {41}
    said = complaint(call("run", *words, "--workdir", tmp_path / "new", f"--anchor.path={tmp_path}/none"))
    assert "none: No such file or directory; check anchor.path" in said
    assert not (tmp_path / "new").exists()


def test_text_of_another_model_or_file_is_made_again(
    anchored: Path, tmp_path: Path, tiny_config: Path
) -> None:
    """Without text its settings may still change; with it they may not, and a file's text is told apart."""
    workdir = Path(shutil.copytree(anchored, tmp_path / "work"))
    said = complaint(call("train", "--workdir", workdir, "--anchor.tokens=100"))
    assert "anchor.tokens was 200, now 100" in said
    (workdir / "mined" / "anchor.npz").unlink()
    unfinish(workdir, lambda stage: stage.endswith("/anchored"))
    words = ("train", "--workdir", workdir, "--train.systems=anchored")
    assert call(*words, "--anchor.tokens=100").code == 0
    fewer = read_anchors(workdir / "mined" / "anchor.npz")
    assert 100 <= sum(len(one.reads) for one in fewer) < 200
    assert read_workdir(workdir).anchor.tokens == 100

    file = tmp_path / "text.txt"
    file.write_text("One text.\n\nAnother text.\n")
    (workdir / "mined" / "anchor.npz").unlink()
    unfinish(workdir, lambda stage: stage.endswith("/anchored"))
    assert call(*words, f"--anchor.path={file}").code == 0
    assert len(read_anchors(workdir / "mined" / "anchor.npz")) == 2
    file.write_text("One text.\n\nAnother text.\n\nA third one.\n")
    unfinish(workdir, lambda stage: stage.endswith("/anchored"))
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert "of another model or file, and made again" in ran.out
    assert len(read_anchors(workdir / "mined" / "anchor.npz")) == 3


def test_text_that_is_the_same_over_and_over_is_told(
    anchored: Path, tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Path(shutil.copytree(anchored, tmp_path / "work"))
    (workdir / "mined" / "anchor.npz").unlink()
    unfinish(workdir, lambda stage: stage.endswith("/anchored"))
    monkeypatch.setattr(anchor, "sampled", lambda context, base: [(5, 6, 0)] * 3)
    ran = call("train", "--workdir", workdir, "--train.systems=anchored", "--train.passes=6")
    assert ran.code == 0, ran.err
    assert "anchor: 3 texts, 1 different ones, 6 tokens" in ran.out
    assert "the same over and over" in ran.err


def test_a_workdir_that_counted_texts_opens() -> None:
    """Each had `anchor.length` tokens at most."""
    now = upgraded({"anchor.texts": 96, "anchor.length": 64, "format": 2})
    assert now["anchor.tokens"] == 96 * 64
    assert "anchor.texts" not in now


@pytest.mark.parametrize("bos", [None, 3])
def test_a_text_begins_after_bos_or_eos_or_as_pretraining_began_it(
    anchored: Path, tmp_path: Path, bos: int | None
) -> None:
    """A model from elsewhere without BOS has read its EOS before texts; a file's text is cut for either."""
    config, loaded = read_workdir(anchored), load(anchored)
    loaded = replace(loaded, tokenizer=replace(loaded.tokenizer, bos=bos))
    file = tmp_path / "text.txt"
    file.write_text("Where is " * 40)
    from_elsewhere = replace(config, model=replace(config.model, path="a folder"))
    (tokens,) = loaded.tokenizer.encode_all([file.read_text().strip()])
    for of_config, first in ((from_elsewhere, 0), (config, None)):
        asked = replace(of_config, anchor=AnchorConfig(path=str(file), length=16))
        context = Context(asked, anchored, loaded.model.mesh, read_facts(config).facts)
        pieces = anchor.from_file(context, loaded)
        begins = [bos] if bos is not None else [0] if first == 0 else anchor.beginnings(context, loaded)
        assert anchor.beginnings(context, loaded) == begins
        own = [piece[1:] if bos is not None or first == 0 else piece for piece in pieces]
        if bos is not None or first == 0:
            assert {piece[0] for piece in pieces} == set(begins)
            assert sum(own, ()) == (*tokens, 0)
        else:  # a piece's last token is the next one's context
            assert own[0] + sum((piece[1:] for piece in own[1:]), ()) == (*tokens, 0)
        assert all(len(piece) <= 17 for piece in pieces)


@pytest.mark.slow
def test_cells_of_a_sweep_share_the_text_where_it_is_the_same(tmp_path: Path, tiny_config: Path) -> None:
    words = ("--config", tiny_config, "--train.systems=anchored", *ANCHOR, "--train.passes=1")
    axes = ("--sweep.objectives.anchored.anchor.weight=0.5,1", "--sweep.anchor.tokens=60,120")
    ran = call("run", *words, *axes, "--workdir", tmp_path / "swept")
    assert ran.code == 0, ran.err
    made = [path for path in (tmp_path / "swept").rglob("anchor.npz") if not path.is_symlink()]
    assert len(made) == 2
    assert "objectives.anchored.anchor.weight" in (tmp_path / "swept" / "sweep.md").read_text()
    rows = json.loads((tmp_path / "swept" / "sweep.json").read_text())
    losses = {
        row["system"]: row["seeds"]["0"] for row in rows if not row["values"] or "anchored" in row["system"]
    }
    rise = losses["anchored"]["text_nll"] - losses["base"]["text_nll"]
    assert losses["anchored"]["forgetting"] == pytest.approx(rise)
    assert losses["base"]["forgetting"] is None
    assert f"{tmp_path}/swept/sweep.png" in ran.out
    assert (tmp_path / "swept" / "sweep.png").is_file()


@pytest.mark.slow
def test_as_many_passes_as_a_time_allows(tmp_path: Path, tiny_config: Path) -> None:
    words = (
        "--config", tiny_config, "--train.systems=anchored,rpo,rlvr", *ANCHOR, "--train.device_seconds=2",
        "--objectives.rlvr.grpo.samples=2", "--objectives.rlvr.grpo.teach=0.5",
        "--objectives.rlvr.grpo.max_new_tokens=12", "--objectives.rpo.remine_every=2",
    )  # fmt: skip
    workdir = tmp_path / "timed"
    ran = call("run", *words, "--workdir", workdir)
    assert ran.code == 0, ran.err
    finished = json.loads((workdir / "finished.json").read_text())
    budgets = {}
    for system in ("anchored", "rpo", "rlvr"):
        kept = json.loads((workdir / "checkpoints" / "train" / system / "passes.json").read_text())
        assert kept["passes"] == finished[f"train/{system}"]["passes"]
        assert finished[f"train/{system}"]["device_seconds"] < 60
        budgets[system] = kept["device_seconds_before"] + kept["passes"] * kept["device_seconds_of_a_pass"]
        assert (kept["device_seconds_before"] > 0) == (system == "rlvr")  # what it teaches first
        assert (kept["device_seconds_of_mining"] > 0) == (system == "rpo")
    assert budgets["anchored"] == pytest.approx(2)
    assert budgets["rlvr"] == pytest.approx(2)
    assert budgets["rpo"] <= 2
    assert not (workdir / "mined" / "rpo.measured.parts").exists()
