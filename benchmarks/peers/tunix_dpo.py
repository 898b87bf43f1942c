"""Updates by Tunix's `DPOTrainer`, one for each line it is sent: the peer of `beside_tunix.py`.

It runs in Tunix's own environment (`tunix.txt` beside it) and imports nothing of ours. The file it is given
names a folder of Hugging Face, the model's figures, and the tokens of all pairs; the reference is the model
with its last norm scaled.
"""

import json
import os
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import resident
from flax import nnx
from tunix.models.qwen3 import model as qwen3
from tunix.models.qwen3 import params as weights
from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig, TrainingInput


def padded(sequences: list[list[int]], *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask, as long as the longest, filled at the left or at the right."""
    length = max(map(len, sequences))
    tokens, mask = np.zeros((len(sequences), length), np.int32), np.zeros((len(sequences), length), np.int32)
    for row, own in enumerate(sequences):
        place = slice(length - len(own), None) if left else slice(len(own))
        tokens[row, place], mask[row, place] = own, 1
    return tokens, mask


def trainer_of(given: dict[str, Any]) -> DPOTrainer:
    """Of the model in float32, AdamW, and no checkpoints."""
    config = qwen3.ModelConfig(**given["shape"])
    automatic = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=automatic)

    def model() -> qwen3.Qwen3:
        return weights.create_model_from_safe_tensors(given["folder"], config, mesh, jnp.float32)

    reference = model()
    reference.final_norm.w.set_value(reference.final_norm.w.get_value() * given["scaled"])
    settings = DPOTrainingConfig(eval_every_n_steps=1000, max_steps=1000, beta=given["beta"])
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5, weight_decay=0.1))
    return DPOTrainer(model(), reference, rule, settings)


def main() -> None:
    """Answer each line on the input with the seconds and the loss of an update.

    And with its peak of resident memory, MiB beyond what there was before the model.
    """
    with open(sys.argv[1]) as file:
        given = json.load(file)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    before = resident.now()
    trainer = trainer_of(given)
    prompt, prompt_mask = padded(given["prompts"], left=True)
    chosen, chosen_mask = padded(given["chosen"], left=False)
    rejected, rejected_mask = padded(given["rejected"], left=False)
    width = max(chosen.shape[1], rejected.shape[1])
    chosen, chosen_mask, rejected, rejected_mask = (
        np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (chosen, chosen_mask, rejected, rejected_mask)
    )
    pairs = TrainingInput(prompt, prompt_mask, chosen, chosen_mask, rejected, rejected_mask)
    step, _ = trainer.jit_train_and_eval_step()

    def update() -> float:
        example = trainer._prepare_inputs(pairs)  # the references, as its loop computes them each time
        loss, *_ = step(example)
        jax.block_until_ready(nnx.state(trainer.model))
        return float(loss)

    losses: list[float] = []
    for _ in sys.stdin:
        began = time.perf_counter()
        peak = resident.peak(lambda: losses.append(update()))
        seconds = time.perf_counter() - began
        answers.write(json.dumps({"seconds": seconds, "loss": losses[-1], "peak": peak - before}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
