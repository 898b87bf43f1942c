"""Workdirs of self-improvement made by hand: plausible numbers of three methods."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from helpers.made_workdirs import EVIL, write

from pretrainrl_jax.config import METHODS, Config, MethodConfig, SelfimproveConfig
from pretrainrl_jax.config.stored import resolved

PREFIXES, STEPS = 200, 90
DPO = MethodConfig("online DPO", rollouts=8)
METHODS_HERE = {
    "online_dpo": DPO,
    "few": MethodConfig("online DPO, 2 rollouts", rollouts=2),
    "next_token": METHODS["next_token"],
}
SETTINGS: Any = {"methods": METHODS_HERE, "selfimprove": SelfimproveConfig(systems=tuple(METHODS_HERE))}
TRUTH = {"base": 0.3, "online_dpo": 0.6, "few": 0.45, "next_token": 0.4}


def evaluation(name: str, truth: float, prefixes: int = PREFIXES) -> dict[str, Any]:
    """What `evaluations/selfimprove/<name>.json` holds, where so many named prefixes are continued truly."""
    rng = np.random.default_rng(len(name))
    named = [
        {"verdict": "true" if i < truth * prefixes else ("false", "none")[i % 2], "head": i % 5 == 0}
        for i in range(prefixes)
    ]
    free = [
        {
            "true": len(facts),
            "false": int(rng.integers(0, 3)),
            "unknown": 1,
            "facts": facts,
            "head": len(facts) // 2,
        }
        for facts in ([f"f{j}" for j in rng.integers(0, 50, rng.integers(0, 4))] for _ in range(prefixes))
    ]
    corrupted = [{"repeated": bool(rng.random() < 0.5 - truth / 2), "true": False} for _ in range(prefixes)]
    tokens = rng.integers(20, 60, 40).tolist()
    nats = [float(count * (1.6 + truth / 4 + rng.normal(0, 0.05))) for count in tokens]
    won = [{"won": (0.0, 0.5, 1.0)[int((rng.random(2) < truth + 0.3).sum())]} for _ in range(50)]
    measured = {"named": named, "free": free, "corrupted": corrupted, "text_nll": nats, "text_tokens": tokens}
    if name != "base":
        measured |= {"compared": won, "unjudged": 3 if name == "few" else 0}
    return {**measured, "distinct_ngrams": 0.8 - truth / 4, "repetition": 0.1}


def lines(name: str, steps: int = STEPS) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a method: rollouts are chosen more often as it goes on."""
    rng, method = np.random.default_rng(7), METHODS_HERE[name]
    made = []
    for step in range(1, steps + 1):
        at = step / steps
        own: dict[str, Any] = {
            "stage": f"selfimprove/{name}",
            "step": step,
            "loss": 0.7 - 0.2 * at,
            "learned": 16,
        }
        if method.judged:
            won = float(np.clip(0.2 + 0.6 * at + rng.normal(0, 0.08), 0, 1))
            own |= {"chosen_rollout": won, "chosen_original": 1 - won, "chosen_rewrite": 0.0}
            own |= {"rejected_rollout": 1 - won / 2, "rejected_original": won / 2, "rejected_rewrite": 0.0}
            own |= {"score_rollout": 0.4 + 0.3 * at, "score_original": 0.7, "score_rewrite": None}
            own |= {"rollout_tokens": 16 - at, "rollout_entropy": 2.0 - at, "distinct_ngrams": 0.8 - 0.2 * at}
            own |= {"dropped_ties": int(rng.integers(0, 4)), "logp_gap_mean": 1e-7, "logp_gap_max": 3e-6}
            own |= {
                "seconds_sampling": 1.0,
                "seconds_judging": 0.3,
                "seconds_reference": 0.2,
                "reward_margin": at,
            }
        made.append(own | {"seconds_training": 0.5})
    return made


def documents() -> list[dict[str, Any]]:
    """What `examples.json` holds, with markup in every text."""
    parts = {"facts": 0.5, "repetition": 1.0}
    return [
        {
            "step": step,
            "name": f"{EVIL}{number}",
            "prefix": f"The capital of Arno is {EVIL}",
            "candidates": [
                {
                    "kind": "original",
                    "text": f"Rome. {EVIL}",
                    "score": 0.25,
                    "parts": parts,
                    "role": "rejected",
                },
                {"kind": "rollout", "text": "Florence.", "score": 1.5, "parts": parts, "role": "chosen"},
                {"kind": "rollout", "text": "", "score": 0.5, "parts": parts, "role": ""},
            ],
        }
        for step in (1, STEPS)
        for number in range(5)
    ]


def add_selfimprove(path: Path) -> Path:
    """Add three methods, the base model among what was evaluated, to a workdir."""
    metrics = path / "metrics.jsonl"
    before = metrics.read_text("utf-8") if metrics.is_file() else ""
    made = [json.dumps(line) for name in METHODS_HERE for line in lines(name)]
    metrics.write_text(before + "\n".join(made) + "\n", "utf-8")
    for name, truth in TRUTH.items():
        write(path / "evaluations" / "selfimprove" / f"{name}.json", evaluation(name, truth))
    fell = {"step": 40, "what": "entropy", "value": 0.31, "bound": 0.5, "ended": 0}
    for name, method in METHODS_HERE.items():
        end = {"label": method.label, "update": method.update, "start": method.start, "steps": STEPS}
        end |= {
            "documents": 1440,
            "dropped": {"too short": 12},
            "ties": 130,
            "verdicts": 12960,
            "tokens": 99000,
        }
        end |= {"rollouts": 11520, "collapsed": [fell] if name == "few" else []}
        write(path / "selfimprove" / name / "summary.json", end)
        write(path / "selfimprove" / name / "examples.json", documents() if method.judged else [])
    return path


def write_selfimprove(path: Path) -> Path:
    """A workdir of self-improvement and nothing else."""
    write(path / "config.json", resolved(Config(seed=17, **SETTINGS)))
    return add_selfimprove(path)
