"""LoRA against peft 0.21 and TRL's `DPOTrainer` on it: folders, logits, and the gradient of the first step.

B is not zero in any of it, where the gradient of A vanishes and A · B shows nothing. What differs: theirs
drops out (lora_dropout, 0.05 in TRL's command line) and ours never does; theirs computes the reference by a
second pass without adapters on every batch, ours once.
"""

import copy
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.policy_twins import Both, made
from helpers.transformers_models import peer, relative_error
from helpers.trl_pairs import BOTH, FACTS, rows_of, trainer_of, trees_of
from safetensors.numpy import load_file, save_file

from pretrainrl_jax.config.machine import THEIRS
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.hugging_face.adapters import WEIGHTS, read_adapter, read_config, write_adapter
from pretrainrl_jax.model.lora import Lora, join, merged, split
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.objectives.loss import total_loss
from pretrainrl_jax.objectives.scoring import target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.training.loading import Loaded, load

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

TOLERANCE = 1e-5
KINDS: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": list(THEIRS)},
    "some, rank-stabilised": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["v_proj", "down_proj"],
        "use_rslora": True,
    },
}


def adapted(policy: Any, **settings: Any) -> Any:
    """A copy of a model of transformers with random adapters of peft."""
    import peft

    model = peft.get_peft_model(copy.deepcopy(policy), peft.LoraConfig(**settings, task_type="CAUSAL_LM"))
    return shaken(model)


def shaken(model: Any) -> Any:
    """Its adapters random, B among them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.eval()


def saved(model: Any, base: Path, folder: Path) -> Path:
    """The adapters in a folder that names the model they are for."""
    model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    return folder


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Both, Path]:
    folder = tmp_path_factory.mktemp("adapted")
    both = made("qwen3", folder)
    both.tokenizer.save_files(folder / "policy")
    return both, folder / "policy"


@pytest.fixture(scope="module", params=["qwen3", "qwen2", "llama3", "mistral", "olmo2", "gemma3_text"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    both = made(request.param, folder)
    both.tokenizer.save_files(folder / "policy")
    return both, folder / "policy"


def logits_of(loaded: Loaded, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(loaded.model.logits(loaded.params, jnp.asarray(tokens)))


@pytest.mark.parametrize("kind", KINDS)
def test_their_folder_is_read_with_equal_logits_merged_or_not_and_written_back(
    family, kind, tmp_path, measured
):
    both, base = family
    theirs = adapted(both.policy, **KINDS[kind])
    folder = saved(theirs, base, tmp_path / "adapter")
    tokens = np.random.default_rng(0).integers(0, both.tokenizer.size, (3, 11))
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
        without = both.policy(torch.tensor(tokens)).logits.numpy()
    loaded = load(folder, merge=False)
    ours = logits_of(loaded, tokens)
    measured(both.family, "LoRA: logits", relative_error(ours, wanted), TOLERANCE)
    assert relative_error(logits_of(load(folder), tokens), wanted) < TOLERANCE
    assert relative_error(logits_of(loaded.plain, tokens), without) < TOLERANCE
    assert relative_error(wanted, without) > 0.05  # the adapters do something

    (tmp_path / "back").mkdir()
    before = os.umask(0o027)
    write_adapter(tmp_path / "back", loaded.model, loaded.params, str(base))
    os.umask(before)
    assert (tmp_path / "back" / WEIGHTS).stat().st_mode & 0o777 == 0o640  # as any file
    import peft

    again = peft.PeftModel.from_pretrained(copy.deepcopy(both.policy), tmp_path / "back").eval()
    with torch.no_grad():
        assert np.array_equal(again(torch.tensor(tokens)).logits.numpy(), wanted)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "olmoe"])
def test_adapters_of_experts_are_loaded_by_peft_with_equal_logits(name, tmp_path, measured):
    """Written under the names of each expert, which peft gathers as it does folders of its older versions."""
    import peft

    both = made(name, tmp_path)
    both.tokenizer.save_files(tmp_path / "policy")
    lora = Lora(3, 6.0, ("query", "out", "gate", "up", "down"))
    model = Model(replace(both.model.shape, lora=lora))
    rng = np.random.default_rng(0)
    _, adapters = split(lora, nn.unbox(model.abstract()))
    drawn = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), adapters)
    params = join(both.params, drawn)
    tokens = np.random.default_rng(0).integers(0, both.tokenizer.size, (3, 11))
    ours = np.asarray(model.logits(params, jnp.asarray(tokens)))
    plain = Model(both.model.shape)
    whole = jax.jit(merged, static_argnums=0)(lora, params)
    assert relative_error(plain.logits(whole, jnp.asarray(tokens)), ours) < TOLERANCE

    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", model, params, str(tmp_path / "policy"))
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(both.policy), tmp_path / "adapter").eval()
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
        without = both.policy(torch.tensor(tokens)).logits.numpy()
    measured(name, "LoRA: logits", relative_error(ours, wanted), TOLERANCE)
    assert relative_error(wanted, without) > 0.05
    again = load(tmp_path / "adapter", merge=False)
    assert again.model.shape.lora == lora
    np.testing.assert_array_equal(logits_of(again, tokens), ours)

    alone = Model(replace(both.model.shape, lora=replace(lora, targets=("gate",))))
    with pytest.raises(InputError, match="gate and up in one matrix"):
        write_adapter(tmp_path / "adapter", alone, params, "base")


def test_the_gradient_of_the_first_step(qwen3, tmp_path, measured):
    import peft

    both, base = qwen3
    lora = peft.LoraConfig(**KINDS["all"], task_type="CAUSAL_LM")
    trainer = trainer_of(both, FACTS, tmp_path / "trainer", peft_config=lora)
    shaken(trainer.model)
    loaded = load(saved(trainer.model, base, tmp_path / "adapter"), merge=False)
    trainer.loss_weights = [1.0, 1.0]
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    theirs.backward()

    # The reference is the model without adapters.
    trees = trees_of(both._replace(reference_params=loaded.plain.params, model=loaded.plain.model), FACTS)
    rows, frozen = rows_of(trees), loaded.frozen

    def loss(adapters: Any) -> jax.Array:
        logps, _ = target_logps(loaded.model, join(frozen, adapters), rows)
        return total_loss(logps, rows, BOTH, count(rows), "token")[0]

    _, adapters = split(loaded.model.shape.lora, loaded.params)
    ours, gradients = jax.jit(jax.value_and_grad(loss))(adapters)
    measured("qwen3", "LoRA: loss, both terms", abs(float(ours) - theirs.item()), TOLERANCE)
    assert abs(theirs.item() - math.log(2)) > 1e-2

    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_" in name:
                weight.copy_(weight.grad)
    of_theirs = read_adapter(
        saved(trainer.model, base, tmp_path / "gradient"),
        loaded.model,
        parameter_shardings(loaded.model, None),
    )
    found, wanted = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (gradients, of_theirs)
    )
    for (path, one), other in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(of_theirs), strict=True
    ):
        assert np.abs(other).max() > 0
        assert relative_error(one, other) < 10 * TOLERANCE, jax.tree_util.keystr(path)
    measured("qwen3", "LoRA: gradient", relative_error(found, wanted), TOLERANCE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"base_model_name_or_path": ""}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "nowhere"}, "no name of a model"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path"),
        ({"r": 5}, "has shape"),
        ({"r": 0}, "r=0"),
        ({"r": "4"}, "r='4'"),
        ({"lora_alpha": None}, "lora_alpha=None"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"use_bdlora": True}, "use_bdlora"),
        ({"of_a_later_peft": "on"}, "of_a_later_peft"),
        ({"use_rslora": "false"}, "use_rslora='false'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"revision": "v2"}, "revision"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
    ],
)
def test_what_is_not_read_is_refused(qwen3, change, says, tmp_path):
    both, base = qwen3
    folder = saved(adapted(both.policy, **KINDS["all"]), base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=says):
        load(folder)


def test_adapters_of_another_model_are_refused(qwen3, tmp_path):
    both, base = qwen3
    deeper = peer("qwen3", 1.0, vocab_size=both.tokenizer.size + 5, num_hidden_layers=3)
    folder = saved(adapted(deeper, **KINDS["all"]), base, tmp_path / "adapter")
    with pytest.raises(InputError, match="no adapter of a matrix of it"):
        load(folder)
    few = saved(adapted(both.policy, **KINDS["all"]), base, tmp_path / "few")
    tensors = load_file(few / WEIGHTS)
    save_file({name: x for name, x in tensors.items() if ".layers.1." not in name}, few / WEIGHTS)
    with pytest.raises(InputError, match="has no tensor"):
        load(few)
    save_file({"other": next(iter(tensors.values()))}, few / WEIGHTS)
    with pytest.raises(InputError, match="has other that is no adapter of a matrix of it"):
        load(few)
    save_file({}, few / WEIGHTS)
    with pytest.raises(InputError, match="has no tensor: it is no adapter"):
        load(few)
    (few / "adapter_config.json").write_text("[1]")
    with pytest.raises(InputError, match="no JSON object"):
        load(few)


def test_tensors_that_are_no_adapters_are_refused(qwen3, tmp_path):
    both, base = qwen3
    folder = saved(adapted(both.policy, **KINDS["all"]), base, tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    nan = np.full_like(tensors[name], np.nan)
    for wrong, said in (
        (tensors[name][0], "is no matrix of F32, BF16, F16"),
        (tensors[name].astype(np.int32), "is no matrix of F32, BF16, F16"),
        (nan, "is not finite"),
    ):
        save_file(tensors | {name: wrong}, folder / WEIGHTS)
        with pytest.raises(InputError, match=f"^{folder}: {name} {said}"):
            load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"^no {WEIGHTS} in {folder}: only safetensors are read$"):
        load(folder)


def test_a_description_is_read_as_it_was_written(qwen3, tmp_path):
    both, base = qwen3
    theirs = adapted(both.policy, **KINDS["some, rank-stabilised"])
    lora, named = read_config(saved(theirs, base, tmp_path))
    assert (lora.rank, lora.alpha, lora.targets, named) == (3, 5.0, ("value", "down"), str(base))
    modules = [m.scaling for m in theirs.modules() if isinstance(getattr(m, "scaling", 0), dict)]
    assert len(modules) == 2 * 2  # two matrices of two layers
    assert all(scaling["default"] == pytest.approx(lora.scale) for scaling in modules)
    assert replace(lora, rank_stabilised=False).scale == 5 / 3
