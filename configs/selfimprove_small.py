"""Self-Improving Pretraining in the small world, continual: from a base model of that world's size.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_small.py

Documents join six sentences as the corpus of configs/small_world.py has them, one statement in five of them
false. The base model has that configuration's size and facts, and is pretrained on these documents: its own
has never read a second sentence. The exact judge looks statements up in the facts of the world. Online DPO
with 8 rollouts and with 2, and RF-NLL, beside next-token training on whole documents and on the original
suffix alone, the same number of updates each. Two CPU cores: about three minutes.
"""

from pretrainrl_jax.config import (
    Config,
    DocumentsConfig,
    JudgeConfig,
    MethodConfig,
    PretrainConfig,
    RolloutsConfig,
    SelfimproveConfig,
)

METHODS = {
    "dpo8": MethodConfig("online DPO, 8 rollouts", rollouts=8, learning_rate=1e-3),
    "dpo2": MethodConfig("online DPO, 2 rollouts", rollouts=2, learning_rate=1e-3),
    "rf_nll": MethodConfig("RF-NLL, 8 rollouts", update="rf_nll", rollouts=8, learning_rate=1e-3),
    "next_token": MethodConfig(
        "next token", update="next_token", candidates=("document",), learning_rate=1e-3
    ),
    "suffix": MethodConfig(
        "next token (suffix)", update="next_token", candidates=("original",), learning_rate=1e-3
    ),
}
config = Config(
    name="small world",
    pretrain=PretrainConfig(text="documents", steps=300),
    documents=DocumentsConfig(count=4000, sentences=6, false_share=0.2),
    rollouts=RolloutsConfig(count=8, batch=24),
    judge=JudgeConfig(facts=1.0, repetition=0.5),
    methods=METHODS,
    selfimprove=SelfimproveConfig(
        systems=tuple(METHODS),
        steps=30,
        documents=24,
        suffix=16,
        length=96,
        shortest_prefix=8,
        row_length=256,
    ),
)
