"""A file of preferences against TRL's `DPOTrainer` on the same rows, read in version 1.16.

From the same file both must make the same tokens, and of these the same loss, rewards and gradient, with
`dpo_scale="pairs"`: theirs averages over the pairs of a batch. What differs, and is not compared here:

- theirs takes one rejected answer a row: a row with several is given to it as several rows.
- where the prompt's tokens are no beginning of the conversation's, both cut the prompt; theirs pair by pair,
  ours for all pairs of a prompt. What the two answers have in common cancels in DPO.
- theirs cuts sequences at `max_length`; ours leaves out a pair that fits in no row.
- theirs makes control tokens of texts that spell them; ours leaves such rows out, unless it is told to.
- to texts theirs appends the tokenizer's EOS, ours the model's; to messages both append nothing.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from helpers.chat import CHATML, THINKING, chat_tokenizer
from helpers.transformers_models import as_ours, peer, relative_error

from pretrainrl_jax.config import PreferencesConfig
from pretrainrl_jax.objectives.loss import total_loss
from pretrainrl_jax.objectives.scoring import score_trees, target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.preferences.reading import read_preferences
from pretrainrl_jax.preferences.trees import build
from pretrainrl_jax.stages.shards import with_references
from pretrainrl_jax.trees.packing import Capacity, pack, plan
from pretrainrl_jax.trees.tree import AnswerTree, total

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of names transformers will drop

TOLERANCE, BETA = 1e-5, 0.3
SIZE = Capacity(256, 256, 384, 48, 32)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


TEXTS: list[dict[str, Any]] = [
    {"prompt": "What is the capital of Arno?", "chosen": " Florence", "rejected": [" Rome", " Pisa", " a"]},
    {"prompt": "Who?", "chosen": " I", "rejected": " The other one"},
    {"prompt": "Who?", "chosen": " The other one", "rejected": [" you"]},
]
MESSAGES: list[dict[str, Any]] = [
    {
        "prompt": user("Capital?"),
        "chosen": said("Florence"),
        "rejected": [said("Rome"), said("Pisa or Rome")],
    },
    {
        "prompt": [{"role": "system", "content": "Be short."}, *user("Who?"), *said("I"), *user("And?")],
        "chosen": said("you"),
        "rejected": said("Nobody at all"),
    },
]
IMPLICIT: list[dict[str, Any]] = [
    {"chosen": user("Who?") + said("I"), "rejected": user("Who?") + said("you")},
    {"chosen": user("What?") + said("grey and green"), "rejected": user("What?") + said("a")},
]
IMPLICIT_TEXTS: list[dict[str, Any]] = [
    {"chosen": "Human: Who? Assistant: I", "rejected": "Human: Who? Assistant: you"},
    {"chosen": "Human: What? Assistant: the sea", "rejected": "Human: What? Assistant: Rome"},
]
CASES = {
    "texts": (TEXTS, CHATML),
    "messages": (MESSAGES, CHATML),
    "implicit messages": (IMPLICIT, CHATML),
    "implicit texts": (IMPLICIT_TEXTS, CHATML),
    "a template that writes the prompt otherwise": (MESSAGES, THINKING),
}


def for_trl(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One rejected answer a row."""
    flat = []
    for row in rows:
        several = row["rejected"]
        is_list = isinstance(several, list) and not isinstance(several[0], dict)
        flat += [row | {"rejected": one} for one in (several if is_list else [several])]
    return flat


def trainer_of(policy: Any, reference: Any, backend: Any, rows: list[dict[str, Any]], folder: Path) -> Any:
    import datasets
    from trl import DPOConfig, DPOTrainer  # it takes seconds: not where tests are only collected

    settings = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=16,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    datasets.disable_progress_bars()
    return DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=settings,
        train_dataset=datasets.Dataset.from_list(for_trl(rows)),
        processing_class=copy.deepcopy(backend),
    )


def pairs_in(trees: list[AnswerTree]) -> list[tuple[tuple[int, ...], ...]]:
    return [
        (t.prefix, t.branches[p.chosen].tokens, t.branches[p.rejected].tokens)
        for t in trees
        for p in t.preferences
        for _ in range(int(p.weight))
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_first_step_is_trls(case, tmp_path, measured):
    rows, template = CASES[case]
    tokenizer = chat_tokenizer(tmp_path / "tokenizer", template)
    sizes = {"vocab_size": tokenizer.size + 5}
    policy, reference = peer("qwen3", 1.0, **sizes), peer("qwen3", 1.0, 1, **sizes)
    model, params = as_ours(policy, tmp_path / "policy")
    _, reference_params = as_ours(reference, tmp_path / "reference")

    trainer = trainer_of(policy, reference, tokenizer.backend, rows, tmp_path / "trainer")
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_preferences(PreferencesConfig(path=str(path)), 0)
    built = build(read.comparisons, tokenizer, SIZE.time)
    assert (built.cut > 0) == (template is THINKING)
    names = ("prompt", "chosen", "rejected")
    theirs = [tuple(tuple(pair[f"{p}_ids"]) for p in names) for pair in trainer.train_dataset]
    assert sorted(theirs) == sorted(pairs_in(built.trees))

    scores = score_trees(model, reference_params, built.trees, row_length=SIZE.time, rows=2)
    trees = with_references(built.trees, scores)
    packed = plan([tree.inputs for tree in trees], SIZE.time)
    batch = pack([[trees[i] for i in row] for row in packed], SIZE, question=False)
    dpo = {"dpo": {"weight": 1.0, "beta": BETA}}

    @jax.jit
    def of_ours(params):
        def loss(params):
            logps, _ = target_logps(model, params, batch)
            return total_loss(logps, batch, dpo, count(batch), dpo_scale="pairs")

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, metrics), gradients = of_ours(params)
    wanted = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    wanted.backward()
    measured("qwen3", f"preferences, {case}: loss", abs(float(loss) - wanted.item()), TOLERANCE)
    assert abs(wanted.item() - math.log(2)) > 1e-3  # the reference is another model

    told = {name: values[-1] for mode in trainer._metrics.values() for name, values in mode.items()}
    assert float(metrics["reward_margin"]) == pytest.approx(told["rewards/margins"], abs=TOLERANCE)
    assert float(metrics["reward_accuracy"]) == pytest.approx(told["rewards/accuracies"], abs=TOLERANCE)
    if template is not THINKING:  # there the two sides hold what both answers have in common
        own = score_trees(model, params, trees, row_length=SIZE.time, rows=2)
        sides = {"chosen": [], "rejected": []}
        for tree, logps in zip(trees, own, strict=True):
            for pair in tree.preferences:
                for name, values in sides.items():
                    at = getattr(pair, name)
                    values += [BETA * (logps[at] - total(tree.branches[at].reference_logp))] * int(
                        pair.weight
                    )
        for name, values in sides.items():
            assert np.mean(values) == pytest.approx(told[f"rewards/{name}"], abs=TOLERANCE)

    carrier = copy.deepcopy(policy)
    of_theirs = {name: p.grad for name, p in trainer.model.named_parameters()}
    with torch.no_grad():
        for name, weight in carrier.named_parameters():
            weight.copy_(of_theirs[name])
    _, expected = as_ours(carrier, tmp_path / "gradients")
    ours, theirs = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(leaves)]) for leaves in (gradients, expected)
    )
    assert np.abs(theirs).max() > 0
    measured("qwen3", f"preferences, {case}: gradient", relative_error(ours, theirs), TOLERANCE)


def test_over_prompts_the_loss_is_another_where_they_have_unequal_counts(tmp_path):
    """The other denominator, from TRL's own losses of each prompt's pairs."""
    tokenizer = chat_tokenizer(tmp_path / "tokenizer", CHATML)
    sizes = {"vocab_size": tokenizer.size + 5}
    policy, reference = peer("qwen3", 1.0, **sizes), peer("qwen3", 1.0, 1, **sizes)
    model, params = as_ours(policy, tmp_path / "policy")
    _, reference_params = as_ours(reference, tmp_path / "reference")
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    trees = build(read_preferences(PreferencesConfig(path=str(path)), 0).comparisons, tokenizer, 256).trees
    trees = with_references(trees, score_trees(model, reference_params, trees, row_length=256, rows=2))
    batch = pack([trees], SIZE, question=False)
    trainer = trainer_of(policy, reference, tokenizer.backend, TEXTS, tmp_path / "trainer")
    pairs = list(trainer.train_dataset)
    each = [trainer.compute_loss(trainer.model, trainer.data_collator([pair])).item() for pair in pairs]
    dpo = {"dpo": {"weight": 1.0, "beta": BETA}}

    @jax.jit
    def of_ours(params):
        logps, _ = target_logps(model, params, batch)
        return {s: total_loss(logps, batch, dpo, count(batch), dpo_scale=s)[0] for s in ("pairs", "prompts")}

    ours = {scale: float(loss) for scale, loss in of_ours(params).items()}
    assert ours["pairs"] == pytest.approx(np.mean(each), abs=TOLERANCE)
    assert ours["prompts"] == pytest.approx((np.mean(each[:3]) + np.mean(each[3:])) / 2, abs=TOLERANCE)
    assert abs(ours["pairs"] - ours["prompts"]) > 1e-3
