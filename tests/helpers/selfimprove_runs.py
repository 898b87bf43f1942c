"""Self-improvement in a world that is learnt in seconds: what tests of its whole runs share."""

import json
import shutil
from pathlib import Path

from helpers import command_line
from helpers.command_line import Ran, call, metrics

CONFIG = (
    command_line.CONFIG.replace("    Config,\n", "    Config,\n    DocumentsConfig,\n")
    .replace("    MineConfig,\n", "    MethodConfig,\n    MineConfig,\n")
    .replace("    PretrainConfig,\n", "    PretrainConfig,\n    RolloutsConfig,\n    SelfimproveConfig,\n")
    .replace("heads=2, kv_heads=1, head_dim=16", "heads=4, kv_heads=2, head_dim=8")
    .replace(
        "    evaluate=",
        """    documents=DocumentsConfig(count=150, sentences=4, false_share=0.4),
    rollouts=RolloutsConfig(count=3, batch=8),
    methods={
        "dpo": MethodConfig(),
        "best": MethodConfig(update="rf_nll", candidates=("original", "rewrite", "rollout"), start="scratch"),
        "plain": MethodConfig(update="next_token", candidates=("document",)),
    },
    selfimprove=SelfimproveConfig(
        systems=("dpo", "best", "plain"), steps=6, documents=8, suffix=8, length=48, shortest_prefix=4
    ),
    evaluate=""",
    )
)
# What no two runs share.
TIMED = ("seconds_", "time", "wall", "device_share", "judge_share")


def steps(workdir: Path, system: str) -> list[dict]:
    """Every line of a method, without the times."""
    lines = metrics(workdir, f"selfimprove/{system}")
    return [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]


def one_system(config: Path, workdir: Path, alone: Path, *words: str) -> Ran:
    """A run of one method on the base model of another workdir."""
    shutil.copytree(alone / "checkpoints" / "pretrain", workdir / "checkpoints" / "pretrain")
    mark = json.loads((alone / "finished.json").read_text())["pretrain"]
    (workdir / "finished.json").write_text(json.dumps({"pretrain": mark}))
    return call("selfimprove", "--config", config, "--workdir", workdir, "--selfimprove.systems=dpo", *words)
