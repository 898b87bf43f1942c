"""Self-Improving Pretraining on real text: SmolLM2-135M continues WikiText-2, and judges itself.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_wikitext.py

It reads the Hugging Face folder `SmolLM2-135M`, the text in `wikitext2_valid.txt`, to measure on the text in
`wikitext2_test.txt` and the facts in `popQA.tsv`; --model.path, --judge.path, --documents.path,
--evaluate.text and --facts.path name others. Two rollouts of 32 tokens, online DPO, and next-token training
beside it; every ordered pair of candidates is judged by the model itself: 6 verdicts a document. A model of
this size is no judge to trust (docs/judging.md); docs/self-improving.md, "Real text", says what came of it.
"""

from pretrainrl_jax.config import (
    Config,
    DocumentsConfig,
    EvaluateConfig,
    FactsConfig,
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
    facts=FactsConfig(path="popQA.tsv", limit=2000),
    model=ModelConfig(path="SmolLM2-135M"),
    pretrain=PretrainConfig(epochs=0.0),
    optimizer=OptimizerConfig(warmup=0.1),
    documents=DocumentsConfig(path=("wikitext2_valid.txt",), held_out=100),
    rollouts=RolloutsConfig(count=2, batch=2),
    judge=JudgeConfig(facts=0.0, repetition=0.5, quality=1.0, path="SmolLM2-135M", prefix_tokens=64),
    methods={
        "online_dpo": MethodConfig("online DPO", learning_rate=5e-6),
        "next_token": MethodConfig(
            "next token", update="next_token", candidates=("document",), learning_rate=5e-6
        ),
    },
    selfimprove=SelfimproveConfig(
        systems=("online_dpo", "next_token"),
        steps=100,
        documents=2,
        suffix=32,
        length=160,
        shortest_prefix=32,
    ),
    evaluate=EvaluateConfig(text="wikitext2_test.txt"),
)
