"""The loss against TRL's `DPOTrainer` with `loss_type=["sigmoid", "sft"]`, read in version 1.16.

From the same texts both must make the same tokens, and of these the same losses and gradients, up to what
differs:

- pairs: theirs reads a question and its gold answer once for each negative, and averages both terms over
  pairs. Ours reads them once, and averages DPO over a question's negatives, then over questions. The two are
  equal where all questions have equally many negatives.
- `sft` is the mean over all completion tokens of a batch of pairs. Ours is that with `ntp_scale="token"` and
  `answer` alone, or for one question with `answer_mean`; "sequence", the default, sums over a
  question's tokens instead, as the paper does.
- batches: their means are those of a microbatch, later averaged; our denominators span the optimizer's batch.
- the question is masked in both of their terms; our NTP can weigh its tokens too.
- EOS: theirs appends the text of the tokenizer's EOS to every completion that does not end with it; ours ends
  every branch with the canonical terminator, the model's EOS or under the few-shot template a line break.
- where question and answer share a token, theirs cuts the question before it; ours encodes the answer apart.
- theirs runs the reference model on every batch; ours has its log-probabilities from mining.
- a text longer than `max_length` (1,024) is cut; ours refuses a tree that is longer than a row.
"""

import math
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
from helpers.policy_twins import Both, gradients_of, made
from helpers.transformers_models import relative_error
from helpers.trl_pairs import BETA, BOTH, DPO, FACTS, NTP, rows_of, trainer_of, trees_of

from pretrainrl_jax.config import MeshConfig, MethodConfig
from pretrainrl_jax.improvement.learning import coefficients
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.loss import Coefficients, total_loss
from pretrainrl_jax.objectives.scoring import target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.training.step import compile_references
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of names transformers will drop

TOLERANCE = 1e-5


ALSO = [pytest.param(family, marks=pytest.mark.slow) for family in ("qwen2", "olmo2", "mixtral", "olmoe")]


@pytest.fixture(scope="module", params=["qwen3", "llama3", "mistral", "gemma3_text", "qwen3_moe", *ALSO])
def both(request, tmp_path_factory) -> Both:
    return made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Both:
    return made("qwen3", tmp_path_factory.mktemp("one"))


def theirs_of(trainer: Any, coefficients: Coefficients) -> torch.Tensor:
    """Their loss on all pairs as one batch, of the terms that we are asked for."""
    trainer.loss_weights = [float(term in coefficients) for term in ("dpo", "ntp")]
    return trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))


# Of a model one program, and one for its gradient, whatever terms are asked for.

logps_of = jax.jit(lambda *arguments: target_logps(*arguments)[0], static_argnums=0)


@partial(jax.jit, static_argnums=0)
def pulled_back(model: Model, params: Params, rows: PackedBatch, of_logps: jax.Array) -> Params:
    """Gradients of parameters from those of log-probabilities."""
    return jax.vjp(lambda params: target_logps(model, params, rows)[0], params)[1](of_logps)[0]


@jax.jit
def loss_of_logps(logps: jax.Array, rows: PackedBatch, coefficients: Coefficients) -> Any:
    return jax.value_and_grad(lambda x: total_loss(x, rows, coefficients, count(rows), "token")[0])(logps)


def loss_of(model: Model, params: Params, rows: PackedBatch, coefficients: Coefficients) -> float:
    """Our loss."""
    return float(loss_of_logps(logps_of(model, params, rows), rows, coefficients)[0])


def gradients_of_ours(model: Model, params: Params, rows: PackedBatch, coefficients: Coefficients) -> Params:
    """Its gradients."""
    _, of_logps = loss_of_logps(logps_of(model, params, rows), rows, coefficients)
    return pulled_back(model, params, rows, of_logps)


def tokens_of(trainer: Any) -> list[tuple[tuple[int, ...], ...]]:
    """Question, chosen and rejected answer of each pair."""
    return [
        tuple(tuple(pair[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected"))
        for pair in trainer.train_dataset
    ]


def pairs_in(trees: list[AnswerTree]) -> list[tuple[tuple[int, ...], ...]]:
    """The same of our trees."""
    return [(t.prefix, t.branches[0].tokens, b.tokens) for t in trees for b in t.branches[1:]]


@pytest.mark.parametrize("questions", [1, 3])
def test_losses_and_gradients(both, questions, tmp_path, measured):
    facts = dict(list(FACTS.items())[:questions])
    trainer = trainer_of(both, facts, tmp_path / "trainer")
    trees = trees_of(both, facts)
    rows = rows_of(trees)
    assert tokens_of(trainer) == pairs_in(trees)

    cases = [("DPO term", DPO, DPO), ("NTP term", NTP, NTP), ("both terms", BOTH, BOTH)]
    if questions == 1:
        cases.append(("NTP term", NTP, {"ntp": {"answer_mean": 1.0}}))
    for name, of_theirs, of_ours in cases:
        wanted = theirs_of(trainer, of_theirs).item()
        loss = loss_of(both.model, both.params, rows, of_ours)
        measured(both.family, f"loss, {name}", abs(loss - wanted), TOLERANCE)
        assert abs(wanted - math.log(2)) > 1e-3  # the reference is another model

    theirs_of(trainer, BOTH).backward()
    wanted = jax.tree.leaves_with_path(gradients_of(trainer, both, tmp_path / "gradients"))
    gradients = jax.tree.leaves(gradients_of_ours(both.model, both.params, rows, BOTH))
    for (path, theirs), ours in zip(wanted, gradients, strict=True):
        assert np.abs(theirs).max() > 0
        assert relative_error(ours, theirs) < 10 * TOLERANCE, jax.tree_util.keystr(path)
    ours, theirs = (
        np.concatenate([np.ravel(x) for x in leaves]) for leaves in (gradients, [w for _, w in wanted])
    )
    measured(both.family, "loss, gradient", relative_error(ours, theirs), TOLERANCE)


def test_where_the_reference_is_the_policy_dpo_is_ln_2(qwen3, tmp_path, measured):
    alike = qwen3._replace(reference=qwen3.policy, reference_params=qwen3.params)
    wanted = theirs_of(trainer_of(alike, FACTS, tmp_path), DPO).item()
    rows = rows_of(trees_of(alike, FACTS))
    loss = loss_of(alike.model, alike.params, rows, DPO)
    measured("qwen3", "loss, DPO term", abs(loss - wanted), TOLERANCE)
    assert wanted == pytest.approx(math.log(2), abs=2e-6)
    assert loss == pytest.approx(math.log(2), abs=2e-6)


def test_theirs_counts_a_question_as_often_as_it_has_negatives(qwen3, tmp_path):
    few, many = ({q: answers[: 2 + i * 2]} for i, (q, answers) in enumerate(list(FACTS.items())[:2]))
    trainer = trainer_of(qwen3, few | many, tmp_path)
    wanted = theirs_of(trainer, DPO).item()
    alone = [
        loss_of(qwen3.model, qwen3.params, rows_of(trees_of(qwen3, facts)), DPO) for facts in (few, many)
    ]
    together = loss_of(qwen3.model, qwen3.params, rows_of(trees_of(qwen3, few | many)), DPO)
    assert wanted == pytest.approx((1 * alone[0] + 3 * alone[1]) / 4, abs=TOLERANCE, rel=TOLERANCE)
    assert together == pytest.approx((alone[0] + alone[1]) / 2, abs=TOLERANCE, rel=TOLERANCE)
    assert abs(together - wanted) > 1e-2


def test_bos_stands_before_the_question_where_the_tokenizer_adds_it(tmp_path):
    both = made("qwen3", tmp_path, bos=True)
    trainer = trainer_of(both, FACTS, tmp_path / "trainer")
    encoded = encode_branches(both.tokenizer, Template("bare"), list(FACTS), list(FACTS.values()))
    laid = [
        (prefix, branches[0], negative)
        for prefix, branches in zip(encoded.prefixes, encoded.branches, strict=True)
        for negative in branches[1:]
    ]
    assert tokens_of(trainer) == laid
    assert all(prefix[0] == both.tokenizer.bos for prefix, _, _ in laid)


def test_rollouts_are_trained_as_the_tokens_that_were_sampled(both, tmp_path, measured):
    """Self-improvement: two branches without a terminator of ours, of any tokens, one ended by its EOS."""
    eos, rng = both.tokenizer.eos[0], np.random.default_rng(0)

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(5, both.tokenizer.size, count).tolist())

    tokens = [
        (drawn(9), drawn(7), drawn(7)),
        (drawn(4), (*drawn(2), eos), drawn(7)),
        (drawn(6), (eos,), drawn(5)),
    ]
    trees = [
        AnswerTree(str(number), prefix, (Branch(chosen, "chosen"), Branch(rejected, "rejected")))
        for number, (prefix, chosen, rejected) in enumerate(tokens)
    ]
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    batch = jax.tree.map(lambda x: jax.numpy.asarray(x)[None], rows_of(trees))
    batch = compile_references(both.model, mesh)(both.reference_params, batch)
    rows = jax.tree.map(lambda x: x[0], batch)
    trainer = trainer_of(both, FACTS, tmp_path)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    trainer.train_dataset = [dict(zip(names, map(list, of_tree), strict=True)) for of_tree in tokens]
    method = MethodConfig(beta=BETA)
    wanted = theirs_of(trainer, DPO).item()
    loss = loss_of(both.model, both.params, rows, coefficients(method))
    measured(both.family, "self-improvement: online DPO", abs(loss - wanted), TOLERANCE)
    wanted = theirs_of(trainer, NTP).item()
    loss = loss_of(both.model, both.params, rows, coefficients(MethodConfig(update="rf_nll")))
    measured(both.family, "self-improvement: RF-NLL", abs(loss - wanted), TOLERANCE)
