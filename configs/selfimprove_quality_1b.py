"""Self-Improving Pretraining for quality, continual (arXiv 2601.21343): a 1.4B model of the Llama 2 shape.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_quality_1b.py

It reads the base model in `llama2-1.4b`, the judge in `judge-8b` (a Llama-3.1-8B-Instruct that was taught to
judge: an untrained one of 8B is right in 45 to 56 % of pairs) and documents of `hf:cerebras/SlimPajama-627B`;
--model.path, --judge.path and --documents.path name others.

The paper's: 2,000 steps of 256 documents, 128 suffix tokens, prefix and suffix at most 2,048, 16 rollouts at
temperature 1 and top-p 1, all ordered pairs judged (61,440 verdicts a step, 122,880,000 in all), online DPO,
5e-6 with a cosine to 10 % and 100 steps of warm-up, 64 GPUs, 983,520 SlimPajama samples. Ours, where it is
silent: beta 0.1, a reference that stays the base model, the first of equal scores, ties dropped.

The paper's numbers: win rate against the base 86.3 (standard prefixes), standard evaluations 50.8 (base
47.6), coherence 87.9; with 2 / 4 / 8 rollouts 69.9 / 75.5 / 84.3; next-token training on the same text 49.0.
Expected hours: unknown. Not measured.
"""

from pretrainrl_jax.config import (
    Config,
    DocumentsConfig,
    JudgeConfig,
    MeshConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RolloutsConfig,
    SelfimproveConfig,
)

config = Config(
    name="SlimPajama, for quality",
    model=ModelConfig(path="llama2-1.4b", dtype="bfloat16", remat="full"),
    mesh=MeshConfig(data=-1, fsdp=8),
    pretrain=PretrainConfig(epochs=0.0),
    optimizer=OptimizerConfig(warmup=0.05, final=0.1),
    documents=DocumentsConfig(path=("hf:cerebras/SlimPajama-627B",), shuffle=10_000),
    rollouts=RolloutsConfig(count=16, temperature=1.0, top_p=1.0, batch=64),
    judge=JudgeConfig(
        facts=0.0, repetition=0.0, quality=1.0, path="judge-8b", dtype="bfloat16", prefix_tokens=0, batch=64
    ),
    methods={
        "online_dpo": MethodConfig("online DPO", candidates=("rollout",), learning_rate=5e-6),
        "next_token": MethodConfig(
            "next token", update="next_token", candidates=("document",), learning_rate=5e-6
        ),
    },
    selfimprove=SelfimproveConfig(
        systems=("online_dpo", "next_token"), steps=2000, documents=256, suffix=128, length=2048
    ),
)
