"""The signatures of failure that a workdir shows, of its systems and of what was mined for them."""

from pretrainrl_jax.config import EvaluateConfig
from pretrainrl_jax.knowledge.signatures import Seen, of_mining, of_training
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.inputs import Inputs
from pretrainrl_jax.report.outcomes import shared
from pretrainrl_jax.report.systems import Systems


def signatures(inputs: Inputs, mined: Json | None) -> list[Json]:
    """Each with its `name`, `system`, `evidence` and `remedy`: of mining, then of systems in their order.

    A system shows its beside the base model; without the base model's evaluation there are none.
    """
    evaluations = dict(inputs.evaluations)
    base = evaluations.pop("base", None)
    try:
        told = of_mining(mined or {})
    except (AttributeError, KeyError, TypeError, ValueError):  # a file of another shape
        told = []
    bound = number(inputs.config.get("evaluate", {}).get("forgetting"))
    bound = EvaluateConfig().forgetting if bound is None else bound
    if base is None:
        return [signature._asdict() for signature in told]
    for system, evaluation in evaluations.items():
        same = base.get("texts") == evaluation.get("texts")  # else the losses are of other texts
        losses = (number(e.get("text_nll")) if same else None for e in (base, evaluation))
        lines = [m for m in inputs.metrics if m.get("stage") == f"train/{system}"]
        pairs = shared(base, evaluation)
        asked = {group: pairs[group] for group in ("trained", "held_out")}
        told += of_training(Seen(system, asked, (next(losses), next(losses)), bound, lines))
    return [signature._asdict() for signature in told]


def signature_lines(told: list[Json], known: Systems) -> list[str]:
    """The same for a terminal, those of one name together, with the remedy below them."""
    lines = []
    for name in dict.fromkeys(signature["name"] for signature in told):
        alike = [signature for signature in told if signature["name"] == name]
        lines += [f"{known.label(s['system'])}: {name}: {s['evidence']}" for s in alike]
        lines.append(f"{name}, what may help: {alike[0]['remedy']}")
    return lines
