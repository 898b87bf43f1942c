"""Gemma 3 and a mixture of experts the whole way: from a folder of transformers, through a run, and back."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.command_line import call, complaint, metrics
from helpers.models_and_trees import small_tokenizer
from helpers.transformers_models import peer

from pretrainrl_jax.training.loading import load

BOTH = "--train.systems=pretrainrl,anchored"
SHORT = (
    "--train.systems=pretrainrl", "--evaluate.samples=0", "--anchor.questions=4",
    "--anchor.tokens=256", "--pretrain.learning_rate=1e-3",
)  # fmt: skip


def folder_of(family: str, folder: Path) -> Path:
    """A random model of transformers with a tokenizer."""
    tokenizer = small_tokenizer(folder)
    peer(family, vocab_size=tokenizer.size + 3).save_pretrained(folder)
    return folder


def summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report" / "summary.json").read_text())["systems"]


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("gemma3_text", ()),
        ("qwen3_moe", (BOTH,)),
        pytest.param("qwen3_moe", (BOTH, "--lora.rank=2"), marks=pytest.mark.slow),
    ],
)
def test_from_a_folder_of_transformers_to_another(
    family: str, more: tuple[str, ...], tmp_path: Path, tiny_config: Path
) -> None:
    source, workdir = folder_of(family, tmp_path / "hub"), tmp_path / "work"
    words = ("run", "--config", tiny_config, "--workdir", workdir, f"--model.path={source}", *SHORT)
    ran = call(*words, "--pretrain.epochs=0.3", *more)
    assert ran.code == 0, ran.err
    systems = {"base", "pretrainrl", *(("anchored",) if BOTH in more else ())}
    assert systems <= set(summary(workdir))
    losses = [line["loss"] for line in metrics(workdir, "train/pretrainrl") if "loss" in line]
    assert losses[-1] < losses[0]
    balance = [line.get("router_loss") for line in metrics(workdir, "train/pretrainrl") if "loss" in line]
    assert all(value >= 3 for value in balance) if family == "qwen3_moe" else not any(balance)

    learned = workdir / "checkpoints" / "train" / "pretrainrl"
    assert call("export", "--model", learned, "--to", tmp_path / "out").code == 0
    ours, tokens = load(learned), torch.arange(30).reshape(2, 15)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        wanted = theirs(tokens).logits.numpy()
        before = transformers.AutoModelForCausalLM.from_pretrained(source).eval()(tokens).logits.numpy()
    found = ours.model.logits(ours.params, jnp.asarray(tokens.numpy()))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(wanted - before).max() > 1e-2


MADE = {
    "gemma3_text": (),
    "olmoe": (
        "--model.experts=6",
        "--model.experts_per_token=2",
        "--model.d_ff=16",
        "--model.router_loss=0.02",
    ),
}


def assert_balanced(family: str, lines: list[dict[str, Any]]) -> None:
    """Two experts a token are balanced at 2."""
    balance = [line.get("router_loss") for line in lines if "loss" in line]
    assert balance
    assert all(value >= 2 for value in balance) if family == "olmoe" else not any(balance)


@pytest.mark.slow
@pytest.mark.parametrize("family", MADE)
def test_a_model_may_be_made_here_and_rewarded(family: str, tmp_path: Path, tiny_config: Path) -> None:
    words = ("--config", tiny_config, "--train.systems=rlvr", "--evaluate.samples=0")
    ran = call("run", "--workdir", tmp_path / "work", *words, f"--model.family={family}", *MADE[family])
    assert ran.code == 0, ran.err
    assert "base" in summary(tmp_path / "work")
    losses = [line["loss"] for line in metrics(tmp_path / "work", "pretrain") if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]  # of 20 steps: from ln(600), every token alike
    about = json.loads((tmp_path / "work" / "checkpoints" / "pretrain" / "model.json").read_text())
    assert about["shape"].get("router_loss") == (0.02 if family == "olmoe" else None)
    assert_balanced(family, metrics(tmp_path / "work", "train/rlvr"))


@pytest.mark.slow
@pytest.mark.parametrize("family", MADE)
def test_a_model_improves_itself(family: str, tmp_path: Path, improving: Path) -> None:
    words = ("--selfimprove.systems=dpo", "--selfimprove.steps=3", "--evaluate.samples=0", *MADE[family])
    more = ("--config", improving, "--workdir", tmp_path / "work", f"--model.family={family}")
    ran = call("selfimprove", *more, *words)
    assert ran.code == 0, ran.err
    assert_balanced(family, metrics(tmp_path / "work", "selfimprove/dpo"))


def test_a_dense_folder_has_nothing_to_balance(tmp_path: Path, tiny_config: Path) -> None:
    source = folder_of("qwen3", tmp_path / "hub")
    words = ("run", "--config", tiny_config, "--workdir", tmp_path / "work", f"--model.path={source}")
    assert "the model has no experts" in complaint(call(*words, "--model.router_loss=0.1"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model.family=mixtral",), "a mixture needs 1 or more a token"),
        (("--model.experts=4",), "model.experts is 4: the family qwen3 has none"),
        (("--model.family=olmoe", "--model.experts=2", "--model.experts_per_token=3"), "at least as many"),
        (("--model.router_loss=-2",), "model.router_loss is -2.0: give 0 or more, or -1"),
        (("--model.router_loss=0.1",), "model.router_loss is 0.1: the family qwen3 has no experts"),
        (("--model.norm_topk_prob=false",), "the family qwen3 has no such choice"),
        (("--mesh.expert=0",), "each must be 1 or more"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...], says: str, tmp_path: Path, tiny_config: Path
) -> None:
    assert says in complaint(call("run", "--config", tiny_config, "--workdir", tmp_path / "work", *words))
