"""The policy gradient's loss against TRL's `GRPOTrainer`, read in version 1.16, on the same tokens.

What differs: theirs pads each prompt and reads it once for each of its samples; ours reads it once for all.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.policy_twins import Both, gradients_of, made
from helpers.transformers_models import relative_error

from pretrainrl_jax.objectives.grpo import advantages
from pretrainrl_jax.objectives.loss import total_loss
from pretrainrl_jax.objectives.scoring import target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.packing import Capacity, pack
from pretrainrl_jax.trees.tree import AnswerTree, Branch

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

TOLERANCE = 1e-5
SAMPLES, LONGEST, TEMPERATURE, LOW, HIGH, KL = 4, 6, 0.7, 0.2, 0.28, 0.05
FORMS = ("grpo", "dapo", "dr_grpo")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Both:
    return made("qwen3", tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="module")
def groups(qwen3) -> list[AnswerTree]:
    """Two prompts with samples of several lengths, rewards, and log-probabilities near the policy's own."""
    rng = np.random.default_rng(0)
    trees = []
    for number, length in enumerate((3, 7)):
        gained = advantages(rng.integers(0, 3, SAMPLES).astype(float))
        branches = []
        for value, tokens in zip(gained, rng.integers(1, LONGEST + 1, SAMPLES), strict=True):
            ids = tuple(rng.integers(5, qwen3.tokenizer.size, tokens).tolist())
            branches.append(Branch(ids, "candidate", advantage=float(value)))
        prefix = tuple(rng.integers(5, qwen3.tokenizer.size, length).tolist())
        trees.append(AnswerTree(str(number), prefix, tuple(branches)))
    return trees


def rows_of(trees: list[AnswerTree]) -> PackedBatch:
    return pack([trees, []], Capacity(128, 128, 64, 16, 16), question=False)


@partial(jax.jit, static_argnums=0)
def tempered(model: Any, params: Any, rows: PackedBatch) -> jax.Array:
    return target_logps(model, params, rows, TEMPERATURE)[0]


@pytest.fixture(scope="module")
def measured_rows(qwen3, groups) -> PackedBatch:
    """With the reference's log-probabilities, and those of a policy that was a little other."""
    rows = rows_of(groups)
    own, reference = (
        np.array(tempered(qwen3.model, p, rows)) for p in (qwen3.params, qwen3.reference_params)
    )
    noise = np.random.default_rng(2).normal(size=own.shape) * 0.7  # ratios are cut at both ends
    blank = rows.source_index < 0
    behaviour, reference = (np.where(blank, np.nan, x).astype(np.float32) for x in (own + noise, reference))
    return rows._replace(behaviour_logp=behaviour, reference_logp=reference)


@partial(jax.jit, static_argnums=0)
def pulled_back(model: Any, params: Any, rows: PackedBatch, of_logps: jax.Array) -> Any:
    """Gradients of parameters from those of log-probabilities."""
    return jax.vjp(lambda params: target_logps(model, params, rows, TEMPERATURE)[0], params)[1](of_logps)[0]


@partial(jax.jit, static_argnums=3)
def of_logps(logps: jax.Array, rows: PackedBatch, weights: dict[str, float], form: str) -> Any:
    def loss(logps: jax.Array) -> Any:
        return total_loss(logps, rows, {"grpo": weights}, count(rows), grpo_form=form)

    return jax.value_and_grad(loss, has_aux=True)(logps)


def graded(model: Any, params: Any, rows: PackedBatch, weights: dict[str, float], form: str) -> Any:
    """What differs between forms is compiled for each of them, and the model once."""
    told, gradient = of_logps(tempered(model, params, rows), rows, weights, form)
    return told, pulled_back(model, params, rows, gradient)


def ours_of(both: Both, rows: PackedBatch, form: str, kl: float) -> tuple[Any, Any, Any]:
    """Loss, metrics and gradients. Nothing is under way when torch begins: a worker has died there."""
    weights = {"weight": 1.0, "clip_low": LOW, "clip_high": HIGH, "max_new_tokens": float(LONGEST)}
    weights |= {"kl": kl} if kl else {}
    (loss, metrics), gradients = jax.block_until_ready(graded(both.model, both.params, rows, weights, form))
    return loss, metrics, gradients


def padded(of_samples: list[Any], fill: float) -> np.ndarray:
    made = np.full((len(of_samples), LONGEST), fill)
    for row, values in enumerate(of_samples):
        made[row, : len(values)] = values
    return made


def theirs_of(both: Both, trees: list[AnswerTree], rows: PackedBatch, form: str, kl: float, folder: Path):
    """Their trainer, and its loss on the samples as one batch."""
    import datasets
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        output_dir=str(folder),
        loss_type=form,
        epsilon=LOW,
        epsilon_high=HIGH,
        temperature=TEMPERATURE,
        num_generations=SAMPLES,
        max_completion_length=LONGEST,
        per_device_train_batch_size=2 * SAMPLES,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    datasets.disable_progress_bars()
    trainer = GRPOTrainer(
        model=copy.deepcopy(both.policy),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=datasets.Dataset.from_list([{"prompt": "a"}]),
        processing_class=copy.deepcopy(both.tokenizer.backend),
    )
    trainer.current_gradient_accumulation_steps, trainer.beta = 1, kl  # with a beta it would load a reference
    samples = [(tree.prefix, branch) for tree in trees for branch in tree.branches]
    longest = max(len(prefix) for prefix, _ in samples)
    prompts = np.zeros((len(samples), longest), int)
    mask = np.zeros_like(prompts)
    for row, (prefix, _) in enumerate(samples):
        prompts[row, longest - len(prefix) :], mask[row, longest - len(prefix) :] = prefix, 1
    completions = padded([branch.tokens for _, branch in samples], 0)
    there = padded([[1] * len(branch.tokens) for _, branch in samples], 0)
    of_row = np.argwhere(np.asarray(rows.source_index) >= 0)
    by_sample: list[list[tuple[int, int]]] = [[] for _ in samples]
    for row, target in of_row:
        by_sample[int(np.asarray(rows.target_branch)[row, target])].append((row, target))

    def of_tokens(values: Any) -> torch.Tensor:
        return torch.tensor(padded([[values[at] for at in own] for own in by_sample], 0.0)).float()

    inputs = {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": torch.tensor(mask),
        "completion_ids": torch.tensor(completions).long(),
        "completion_mask": torch.tensor(there).long(),
        "advantages": torch.tensor([branch.advantage for _, branch in samples]).float(),
        "old_per_token_logps": of_tokens(rows.behaviour_logp),
        "ref_per_token_logps": of_tokens(rows.reference_logp),
        "num_items_in_batch": torch.tensor(float(there.sum())),
    }
    trainer.model.train()
    return trainer, trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize(("form", "kl"), [*((form, KL) for form in FORMS), ("dapo", 0.0)])
def test_losses_and_gradients(qwen3, groups, measured_rows, form, kl, tmp_path, measured):
    loss, metrics, gradients = ours_of(qwen3, measured_rows, form, kl)
    trainer, wanted = theirs_of(qwen3, groups, measured_rows, form, kl, tmp_path / "trainer")
    measured(
        "qwen3", f"RLVR: loss, {form}{', KL' if kl else ''}", abs(float(loss) - wanted.item()), TOLERANCE
    )
    assert abs(wanted.item()) > 1e-3
    used = np.asarray(measured_rows.source_index) >= 0
    own = np.asarray(tempered(qwen3.model, qwen3.params, measured_rows), np.float64)
    ratios = np.exp(own - measured_rows.behaviour_logp)[used]
    gains = np.asarray(measured_rows.advantage)[used]
    cut = [(gains > 0) & (ratios > 1 + HIGH), (gains < 0) & (ratios < 1 - LOW)]
    assert all(side.any() for side in cut)  # each way
    np.testing.assert_allclose(metrics["clipped"], np.any(cut, axis=0).mean(), atol=1e-6)
    np.testing.assert_allclose(metrics["ratio_max"], ratios.max(), rtol=1e-4)
    wanted.backward()
    theirs = jax.tree.leaves(gradients_of(trainer, qwen3, tmp_path / "gradients"))
    ours, flat = (
        np.concatenate([np.ravel(x) for x in leaves]) for leaves in (jax.tree.leaves(gradients), theirs)
    )
    measured("qwen3", f"RLVR: gradient, {form}", relative_error(ours, flat), TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
def test_before_the_first_update_every_ratio_is_1(qwen3, groups, measured_rows, form):
    """Whether behaviour is what the policy computes, or is not known: the same loss and gradient."""
    own = jnp.where(
        measured_rows.source_index >= 0, tempered(qwen3.model, qwen3.params, measured_rows), jnp.nan
    )
    known, unknown = measured_rows._replace(behaviour_logp=own), rows_of(groups)
    both = [ours_of(qwen3, rows, form, 0.0) for rows in (known, unknown)]
    for loss, metrics, _ in both:
        np.testing.assert_allclose(metrics["ratio_max"], 1, atol=1e-5)
        assert metrics["clipped"] == 0
        np.testing.assert_allclose(loss, both[0][0], atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), both[0][2], both[1][2])


def test_another_form_is_refused(qwen3, measured_rows):
    with pytest.raises(ValueError, match="form is 'ppo', and must be one of grpo, dapo, dr_grpo"):
        ours_of(qwen3, measured_rows, "ppo", 0.0)


def test_advantages_are_theirs():
    rng = np.random.default_rng(0)
    for rewards in (*rng.normal(size=(5, 6)), np.array([1.0, 0, 0, 1]), np.ones(3)):
        values = torch.tensor(rewards)
        theirs = (values - values.mean()) / (values.std() + 1e-4)
        np.testing.assert_allclose(advantages(list(rewards)), theirs, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(advantages(list(rewards), "dr_grpo"), values - values.mean(), atol=1e-12)
    assert advantages([1.0]) == 0
    assert not any(advantages([0.1] * 3, form).any() for form in ("grpo", "dr_grpo"))  # whose mean is rounded
