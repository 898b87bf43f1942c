"""Evaluations made by hand with all that tells what a model knows, and whether it knows it."""

import random
from pathlib import Path
from typing import Any

from helpers.made_workdirs import asked, change

WRONG = ["Michael Jackson", "Rome", "New York", "Turin", "Oslo"]
CATEGORIES = ["capital", "occupation", "sport"]


def answered(index: int, group: str, sure: float, right: bool, **changes: Any) -> dict[str, Any]:
    """A question whose best answer has this confidence; the truth is second where that is wrong."""
    rest = 1 - sure
    false = WRONG[0] if index % 3 else WRONG[index % len(WRONG)]
    truth = sure if right else rest / 2
    said = "Florence" if right else false
    return {
        "id": f"f{index}",
        "question": f"What is the capital of Arno {index}{', again' * (group == 'paraphrase')}?",
        "group": group,
        "category": CATEGORIES[index % 3],
        "popularity": (index + 1.0) ** -1.5,
        "answer": "Florence",
        "prediction": said,
        "correct": right,
        "rank": 1 if right else 2 if index % 4 else None,
        "p_truth": truth * 0.8,
        "p_aliases": truth,
        "falsehood": false,
        "p_falsehood": rest / 2 if right else sure,
        "truths": 1 + index % 3,
        "best": said.lower(),
        "best_right": right,
        "confidence": sure,
        "calibrated": sure**1.5,
        "samples": [said.lower(), said.lower() if sure > 0.5 else "oslo", None, said.lower()],
        "samples_right": [right, right and sure > 0.5, False, right],
        "choice": "Florence",
        "choice_right": index % 2 == 0,
        "choice_confidence": 0.3,
        "columns": {"continent": "Europe" if index % 2 else "Asia"},
        **({"neighbour": ("subject", "answer", "")[index % 3]} if group == "held_out" else {}),
        **changes,
    }


def evaluation(system: str, level: float, facts: int = 60, seed: int = 0) -> dict[str, Any]:
    """An evaluation of which about a share `level` is right, surer where it is right."""
    rng = random.Random(f"{seed} {level}")
    questions = []
    for group, start, count in (
        ("trained", 0, facts),
        ("paraphrase", 0, facts),
        ("held_out", facts, facts // 2),
        ("reversed", 0, facts // 2),
    ):
        for index in range(start, start + count):
            right = rng.random() < level * (1 if group == "trained" else 0.6)
            sure = min(0.999, max(0.01, rng.gauss(0.75 if right else 0.45, 0.22)))
            questions.append(answered(index, group, sure, right))
    outcomes = [rng.choice(["right", "wrong", "abstained"]) for _ in range(facts)]
    made = asked(system, questions, text_nll=2.0 + level, device_seconds=3.0)
    made["by_popularity"] = [{"low": 0.0, "high": 1.0, **made["groups"]["trained"]} for _ in range(4)]
    made["temperature"] = {"value": 1.31, "fitted_on": facts // 2, "log_loss": [0.62, 0.55]}
    closed = [outcome.replace("abstained", "wrong") for outcome in outcomes]
    made["rubric"] = {"closed": closed, "open": {str(cost): outcomes for cost in (0, 1, 3, 9)}}
    made["theory"] = theory()
    return made


def theory(**changes: Any) -> dict[str, Any]:
    """What a small world's bounds look like: one that says something, and one that does not."""
    bound = {
        "questions": 2400, "bound": 0.5312, "vacuous": False, "err_iiv": 0.41, "err_iiv_most": 0.43,
        "gold_missed": 0.78, "errors_taken": 0.04, "size_term": 0.0127, "max_valid": 1, "min_erroneous": 79,
        "threshold": 0.01266, "delta": 0.2761, "p_hat_above": 0.4961, "p_above": 0.22, "error": 0.82,
        "error_known": 0.41, "outside": 0.41, "bound_known": 0.1212, "incomplete": 1900, "holds": True,
    }  # fmt: skip
    mass = {"good_turing": 0.0316, "interval": [0.0274, 0.0358], "true": 0.033}
    statements = {
        "source": "corpus", "texts": 19000, "characters": 900000, "prompts": 2400, "stated": 1600,
        "statements": 15200, "false": 0, "unknown": 0, "singletons": 480, "doubletons": 260,
        "singleton_rate": 0.0316, "missing_mass": mass,
    }  # fmt: skip
    singleton = {
        "bound": -0.97, "vacuous": True, "singleton_rate": 0.0316, "size_term": 0.0253, "sample_term": 0.7525,
        "delta": 0.22, "min_erroneous": 79, "threshold": 0.01266, "p_hat_above": 0.8, "p_above": 0.58,
        "error": 0.5, "error_known": 0.3, "outside": 0.2, "bound_known": -1.17, "weights": "statements",
        "covered": 1.0, "told_more": False, "guess": 0.24, "guess_uniform": 0.0125, "holds": True,
    }  # fmt: skip
    return {
        "questions": 2400, "without_errors": 3, "iiv": bound,
        "categories": [{"category": "capital", **bound}],
        "statements": statements, "singleton": singleton,
        "notes": ["The error is that of answers drawn from the model at temperature 1."], **changes,
    }  # fmt: skip


def measure_knowledge(workdir: Path, systems: dict[str, float], facts: int = 60) -> None:
    """Put such evaluations in place of those of a made workdir."""
    for system, level in systems.items():
        (workdir / "evaluations" / f"{system}.json").unlink(missing_ok=True)
        (workdir / "evaluations" / f"{system}.json").write_text("{}")
        change(workdir / "evaluations" / f"{system}.json", **evaluation(system, level, facts))
