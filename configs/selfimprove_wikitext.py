"""Self-Improving Pretraining on real text: SmolLM2-135M continues WikiText-2, and judges itself.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_wikitext.py

It reads the Hugging Face folder `SmolLM2-135M` and the text in `wikitext2_valid.txt`; --model.path,
--judge.path and --documents.path name others, --evaluate.text a text whose loss is told. Two rollouts of 32
tokens, online DPO; every ordered pair of candidates is judged by the model itself: 6 verdicts a document. A
model of this size is no judge to trust (docs/judging.md): what is shown is that the loop runs on real text.
"""

from pretrainrl_jax.config import (
    Config,
    DocumentsConfig,
    JudgeConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RolloutsConfig,
    SelfimproveConfig,
)

config = Config(
    name="WikiText-2",
    model=ModelConfig(path="SmolLM2-135M"),
    pretrain=PretrainConfig(epochs=0.0),
    optimizer=OptimizerConfig(warmup=0.1),
    documents=DocumentsConfig(path=("wikitext2_valid.txt",)),
    rollouts=RolloutsConfig(count=2, batch=2),
    judge=JudgeConfig(facts=0.0, repetition=0.5, quality=1.0, path="SmolLM2-135M", prefix_tokens=64),
    methods={"online_dpo": MethodConfig("online DPO", learning_rate=5e-6)},
    selfimprove=SelfimproveConfig(
        systems=("online_dpo",), steps=30, documents=2, suffix=32, length=160, shortest_prefix=32
    ),
)
