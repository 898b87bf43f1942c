"""What each method learns against what it forgets, with and without the anchor, on the small world.

    python -m pretrainrl_jax.main --config configs/front_small.py --workdir runs/front \
        --sweep.seed=0,1,2

Fourteen systems from the same base models: next-token prediction on question and answer, on answers, with
answers weighted; DPO with next-token prediction on answers; iterative RPO; PretrainRL; RLVR; and each of them
with the anchor of weight 0.25. The sweep ends in `sweep.png` and a table with intervals. The rates were
chosen on a seed of their own, on wordings that training never used (for two of the anchored ones, and taken
for the others):

    python -m pretrainrl_jax.main --config configs/front_small.py --workdir runs/front_rates \
        --sweep.seed=100 --sweep.learning_rate=3e-4,1e-3,3e-3

docs/forgetting.md has the table, and the picture.
"""

from dataclasses import replace

from pretrainrl_jax.config import (
    OBJECTIVES,
    AnchorConfig,
    AnchorTermConfig,
    Config,
    DpoConfig,
    EvaluateConfig,
    NtpConfig,
    ObjectiveConfig,
    TrainConfig,
)

methods = {name: OBJECTIVES[name] for name in ("ntp", "ntp_answer", "ntp_weighted")}
methods["dpo_answer"] = ObjectiveConfig(
    "DPO + NTP (answers)", ntp=NtpConfig(answer=1.0), dpo=DpoConfig(1.0, beta=1.0)
)
methods |= {name: OBJECTIVES[name] for name in ("rpo", "pretrainrl", "rlvr")}
anchored = {
    f"{name}_anchored": replace(
        method,
        label=f"{method.label}, anchored",
        words="",
        above=(),
        anchor=AnchorTermConfig(0.25),
        learning_rate=3e-4 if name == "rlvr" else 3e-3,  # without the anchor that rate would forget too much
    )
    for name, method in methods.items()
}
config = Config(
    name="small world",
    anchor=AnchorConfig(batch=64),
    objectives=methods | anchored,
    train=TrainConfig(systems=(*methods, *anchored)),
    evaluate=EvaluateConfig(beams=1, samples=0, groups=("trained", "paraphrase", "held_out")),
)
