"""Direct preference optimisation on the pairs of a file, as TRL's DPOTrainer reads it.

    python -m pretrainrl_jax.main run --config configs/preferences.py \\
        --preferences.path=pairs.jsonl --model.path=SmolLM2-135M-Instruct

The file has `prompt`, `chosen` and `rejected`, texts or messages; docs/preferences.md tells all it may hold,
and `facts` in the place of `run` what of yours is read. The model is a Hugging Face folder or a checkpoint.
One prompt in ten is held out: the table at the end tells how often the chosen answer is preferred there,
before and after, with intervals. To expect: a loss that begins at ln 2 = 0.693, and margins that rise.

As in TRL: beta 0.1, learning rate 1e-6, three passes, DPO averaged over pairs, Adam's betas, no weight decay.
Otherwise: the rate is warmed up and falls by a cosine to a tenth (theirs: no warm-up, linearly to 0), a step
has about 32 prompts (theirs: 8 pairs a device), and rows of 1,024 tokens hold a prompt with all its answers
(theirs: 1,024 tokens for a prompt with one answer, and what is longer is cut).

Beside `dpo`, --train.systems may name `ntp_answer` (fine-tuning on the chosen answers), `pretrainrl` and the
others but iterative RPO, or objectives of one's own.
"""

from dataclasses import replace

from pretrainrl_jax.config import (
    OBJECTIVES,
    Config,
    ModelConfig,
    OptimizerConfig,
    PreferencesConfig,
    PretrainConfig,
    TrainConfig,
)

config = Config(
    preferences=PreferencesConfig(path="pairs.jsonl"),
    model=ModelConfig(path="SmolLM2-135M-Instruct"),
    optimizer=OptimizerConfig(weight_decay=0.0, beta2=0.999),
    pretrain=PretrainConfig(epochs=0),
    objectives={
        name: replace(objective, learning_rate=1e-6)
        for name, objective in OBJECTIVES.items()
        if not objective.remine_every
    },
    train=TrainConfig(systems=("dpo",), passes=3, questions=32, row_length=1024, dpo_scale="pairs"),
)
