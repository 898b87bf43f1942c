"""Whole runs with LoRA: adapters alone are trained, kept and given back, in every stage."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import (
    Signalled,
    assert_same_parameters,
    call,
    complaint,
    items,
    metrics,
    parameters,
    unfinish,
)
from helpers.selfimprove_runs import one_system, steps

from pretrainrl_jax.model.lora import A, B
from pretrainrl_jax.training.loading import load

SYSTEMS = ("ntp_answer", "rpo")
LORA = ("--lora.rank=3", "--lora.alpha=6")
SHORT = (*LORA, "--selfimprove.steps=3", "--evaluate.samples=0")
HOW = (
    *LORA, "--train.systems=ntp_answer,rpo", "--train.passes=8", "--objectives.rpo.remine_every=14",
    "--objectives.rpo.reference=base", "--objectives.rpo.learning_rate=5e-2",
    "--objectives.ntp_answer.learning_rate=5e-2", "--evaluate.every_steps=12", "--evaluate.samples=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, compiled: Path) -> Path:
    """A model made here, pretrained whole, and two systems that are adapters of it."""
    workdir = tmp_path_factory.mktemp("adapted") / "work"
    ran = call("run", "--config", tiny_config, "--workdir", workdir, *HOW)
    assert ran.code == 0, ran.err
    assert "Warning" not in ran.err
    return workdir


def summary(workdir: Path) -> dict:
    return json.loads((workdir / "report" / "summary.json").read_text())["systems"]


def test_adapters_learn(adapted: Path) -> None:
    told = summary(adapted)
    page = json.loads((adapted / "report" / "summary.json").read_text())
    assert page["model"] == "qwen3 with 1 layers of width 32, adapters of rank 3"
    for system in SYSTEMS:
        assert told[system]["acc"] > told["base"]["acc"] + 0.1
        losses = [line["loss"] for line in metrics(adapted, f"train/{system}") if "loss" in line]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_has_adapters_alone(adapted: Path, system: str) -> None:
    base, learned = parameters(adapted, "pretrain"), parameters(adapted, f"train/{system}")
    matrices = [
        name for name in base if name.split("/")[-1] in ("query", "key", "value", "out", "gate", "up", "down")
    ]
    assert set(learned) == {name + side for name in matrices for side in (A, B)}
    assert len(matrices) == 7
    assert all(x.dtype == np.float32 and np.abs(x).max() > 0 for x in learned.values())
    folder = adapted / "checkpoints" / "train" / system
    about = json.loads((folder / "model.json").read_text())["adapter"]
    assert (about["rank"], about["alpha"], about["base"]["stage"]) == (3, 6.0, "pretrain")
    assert "adapter" not in json.loads((adapted / "checkpoints" / "pretrain" / "model.json").read_text())


@pytest.mark.parametrize("system", SYSTEMS)
def test_beside_the_model_or_as_a_part_of_it_they_are_the_same(adapted: Path, system: str) -> None:
    folder = adapted / "checkpoints" / "train" / system
    beside, part, base = load(folder, merge=False), load(folder), load(adapted / "checkpoints" / "pretrain")
    tokens = jnp.arange(30).reshape(2, 15)
    found = beside.model.logits(beside.params, tokens)
    assert part.model == base.model == beside.plain.model
    np.testing.assert_allclose(part.model.logits(part.params, tokens), found, atol=2e-5)
    before = base.model.logits(base.params, tokens)
    assert np.abs(found - before).max() > 0.1
    for one, other in zip(jax.tree.leaves(beside.plain.params), jax.tree.leaves(base.params), strict=True):
        assert np.array_equal(one, other)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    adapted: Path, tmp_path: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also across mining again, whose negatives' references are of the model without adapters."""
    workdir = Path(shutil.copytree(adapted, tmp_path / "work"))
    unfinish(workdir, lambda stage: stage == "train/rpo")
    words = ("train", "--workdir", workdir)
    for step in (4, 8):
        monkeypatch.setattr(signalled, "when", ("train/rpo", step))
        assert call(*words).code == 130
        assert items(workdir / "checkpoints" / "train" / "rpo" / str(step)) == {"about", "params", "training"}
    monkeypatch.setattr(signalled, "when", ("", 0))
    assert "lora.rank was 3, now 4" in complaint(call(*words, "--lora.rank=4"))
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert "goes on after step 8" in ran.out + ran.err
    assert_same_parameters(workdir, adapted, "train/rpo")


def test_adapters_of_another_model_are_refused(adapted: Path, tmp_path: Path, tiny_config: Path) -> None:
    workdir = Path(shutil.copytree(adapted, tmp_path / "work"))
    other = tmp_path / "other"
    assert call("pretrain", "--config", tiny_config, "--workdir", other, "--seed=1").code == 0
    base = workdir / "checkpoints" / "pretrain"
    shutil.rmtree(base)
    said = complaint(call("export", "--model", workdir, "--to", tmp_path / "out"))
    assert "holds adapters of the model at" in said
    shutil.copytree(other / "checkpoints" / "pretrain", base)
    said = complaint(call("export", "--model", workdir, "--to", tmp_path / "out"))
    assert "holds adapters of another model than the one at" in said


def on_the_base_of(adapted: Path, workdir: Path, config: Path, *words: str) -> Path:
    """Another run, on the base model that is there."""
    shutil.copytree(adapted / "checkpoints" / "pretrain", workdir / "checkpoints" / "pretrain")
    mark = json.loads((adapted / "finished.json").read_text())["pretrain"]
    (workdir / "finished.json").write_text(json.dumps({"pretrain": mark}))
    ran = call("run", "--config", config, "--workdir", workdir, *words, "--evaluate.groups=trained")
    assert ran.code == 0, ran.err
    return workdir


@pytest.mark.slow
def test_a_base_may_be_kept_in_bfloat16(adapted: Path, tmp_path: Path, tiny_config: Path) -> None:
    """Adapters learn about the same, and what is loaded has the base as they had it, whatever its dtype."""
    words = (*HOW, "--train.systems=ntp_answer", "--lora.base_dtype=bfloat16", "--model.dtype=bfloat16")
    workdir = on_the_base_of(adapted, tmp_path / "work", tiny_config, *words)
    folder = workdir / "checkpoints" / "train" / "ntp_answer"
    beside, part = load(folder, dtype="float32", merge=False), load(folder, dtype="float32")
    assert {x.dtype.name for x in jax.tree.leaves(beside.plain.params)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(part.params)} == {"float32"}
    tokens = jnp.arange(30).reshape(2, 15)
    found = beside.model.logits(beside.params, tokens)
    np.testing.assert_allclose(part.model.logits(part.params, tokens), found, atol=1e-4)
    first, of_exact = (metrics(path, "train/ntp_answer")[1]["loss"] for path in (workdir, adapted))
    assert 0 < abs(first - of_exact) < 0.05 * of_exact


def test_rewards(tmp_path: Path, adapted: Path, tiny_config: Path) -> None:
    """The base model of the KL is the policy without adapters: at first there is no distance."""
    workdir = on_the_base_of(
        adapted, tmp_path / "work", tiny_config, *LORA, "--train.systems=rlvr", "--train.passes=2",
        "--objectives.rlvr.learning_rate=5e-2", "--objectives.rlvr.grpo.kl=0.01",
        "--objectives.rlvr.grpo.updates=2", "--evaluate.samples=0",
    )  # fmt: skip
    distances = [line["kl_reference"] for line in metrics(workdir, "train/rlvr")]
    assert distances[-1] > distances[0] >= 0
    assert all(name.endswith((A, B)) for name in parameters(workdir, "train/rlvr"))


def test_self_improvement_holds_no_reference_beside_the_policy(
    tmp_path: Path, adapted: Path, improving: Path
) -> None:
    """Resident or loaded, it is the model without adapters, and all runs are the same."""
    alone = tmp_path / "alone"
    ran = call("selfimprove", "--config", improving, "--workdir", alone, "--selfimprove.systems=dpo", *SHORT)
    assert ran.code == 0, ran.err
    told = [line for line in ran.out.splitlines() if "on the devices:" in line]
    assert "reference" not in told[0]
    assert all(name.endswith((A, B)) for name in parameters(alone, "selfimprove/dpo"))
    loaded = tmp_path / "loaded"
    ran = one_system(improving, loaded, alone, *SHORT, "--selfimprove.reference=loaded")
    assert ran.code == 0, ran.err
    assert steps(loaded, "dpo") == steps(alone, "dpo")
    assert_same_parameters(loaded, alone, "selfimprove/dpo")


def test_a_model_of_hugging_face_is_pretrained_further_and_given_back(
    adapted: Path, tmp_path: Path, tiny_config: Path
) -> None:
    """Adapters of pretraining are part of the base model that objectives adapt again; peft opens theirs."""
    import peft
    import torch
    import transformers

    folder = tmp_path / "hub"
    base = adapted / "checkpoints" / "pretrain"
    assert call("export", "--model", base, "--to", folder).code == 0
    words = ("--config", tiny_config, f"--model.path={folder}", *LORA, "--train.systems=ntp_answer")
    further = tmp_path / "further"
    assert call("train", *words, "--workdir", further).code == 2  # nothing is mined there
    ran = call("run", *words, "--workdir", further, "--evaluate.samples=0", "--pretrain.epochs=0.2")
    assert ran.code == 0, ran.err
    assert all(name.endswith((A, B)) for name in parameters(further, "pretrain"))
    about, of_system = (
        json.loads((further / "checkpoints" / stage / "model.json").read_text())["adapter"]["base"]
        for stage in ("pretrain", "train/ntp_answer")
    )
    assert about["path"] == str(folder)
    # What a merged base model is called does not depend on how its sums were rounded.
    base = load(further / "checkpoints" / "pretrain")
    assert base.digest == base.identity == of_system["digest"]
    assert base.digest != about["digest"] == load(folder).digest
    peft_of = ("export", "--model", further, "--to", tmp_path / "no", "--export.adapters=peft")
    assert "--export.base" in complaint(call(*peft_of))
    assert "adapters alone are float32" in complaint(call(*peft_of, "--export.dtype=bfloat16"))

    as_it_is = tmp_path / "as_it_is"
    ran = call("run", *words, "--workdir", as_it_is, "--evaluate.samples=0", "--pretrain.epochs=0")
    assert ran.code == 0, ran.err
    out, whole = tmp_path / "adapter", tmp_path / "whole"
    assert call("export", "--model", as_it_is, "--to", out, "--export.adapters=peft").code == 0
    assert call("export", "--model", as_it_is, "--to", whole).code == 0
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 6, str(folder))
    with torch.no_grad():
        tokens = torch.arange(30).reshape(2, 15)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        theirs = peft.PeftModel.from_pretrained(model, out).eval()(tokens).logits.numpy()
        merged = transformers.AutoModelForCausalLM.from_pretrained(whole).eval()(tokens).logits.numpy()
    ours = load(as_it_is)
    found = np.asarray(ours.model.logits(ours.params, jnp.asarray(tokens.numpy())))
    np.testing.assert_allclose(found, theirs, atol=2e-5)
    np.testing.assert_allclose(found, merged, atol=2e-5)

    # And the folder is a model to go on from, or to import.
    again = load(out)
    np.testing.assert_allclose(
        again.model.logits(again.params, jnp.asarray(tokens.numpy())), found, atol=1e-6
    )
    assert call("import", "--model", out, "--workdir", tmp_path / "imported").code == 0
    imported = load(tmp_path / "imported")
    for one, other in zip(jax.tree.leaves(imported.params), jax.tree.leaves(again.params), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--lora.alpha=4",), "lora.alpha is 4.0: there are no adapters without lora.rank"),
        (
            ("--lora.rank=2", "--lora.targets=head"),
            "lora.targets names 'head': the groups are",
        ),
        (("--lora.rank=2", "--lora.targets=mlp,mlp"), "lora.targets is mlp,mlp: name each once"),
        (("--lora.rank=-1",), "lora.rank"),
        (("--export.base=x",), "export.base"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, tiny_config: Path, words: tuple[str, ...], says: str
) -> None:
    if words[0].startswith("--export"):
        ran = call("export", "--workdir", tmp_path, "--to", tmp_path / "out", *words)
    else:
        ran = call("run", "--config", tiny_config, "--workdir", tmp_path / "work", *words)
    assert says in complaint(ran)
    assert not (tmp_path / "work").exists()


def test_a_model_without_adapters_has_none_to_export(adapted: Path, tmp_path: Path) -> None:
    base = adapted / "checkpoints" / "pretrain"
    said = complaint(call("export", "--model", base, "--to", tmp_path / "out", "--export.adapters=peft"))
    assert "has no adapters" in said
    assert not (tmp_path / "out").exists()
