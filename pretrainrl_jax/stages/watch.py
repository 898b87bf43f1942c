"""A look at a policy while it trains: the same few questions and texts every time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import to_json
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.knowledge.signatures import Seen, of_training
from pretrainrl_jax.report.inputs import read_metrics
from pretrainrl_jax.stages.asking import Asker, outcome
from pretrainrl_jax.stages.context import Context, keep_json, kept_json
from pretrainrl_jax.stages.evaluate import text_nll
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.session import Hook, Session

ASKED_WITH = ("template", "beams", "max_new_tokens", "match", "sample", "text")  # what a look depends on


def watch(context: Context, session: Session, begun: Loaded, ended: Callable[[], bool]) -> Hook:
    """Look at what training begins or goes on with, unless an earlier run has looked since it was due.

    A look evaluates a session's policy on `evaluate.sample` trained questions and as many held-out texts.
    What it finds is a line of its own in metrics.jsonl: `sample_acc`, `sample_hr` and `sample_text_nll`. A
    signature of failure that shows beside the first look, at the base model, is said once, with a line
    `signature_NAME`. It changes nothing in training, and is no part of its seconds; parameters of `begun`,
    the policy as it began, are not read. Where the best step is to be chosen, the policy is saved with its
    score, and looked at also once it has `ended`.

    Raises InputError if the best step is to be chosen by text, and there is none.
    """
    settings, run = context.config.evaluate, session.run
    facts = subsample(context.asked, settings.sample, context.config.seed)
    questions = [(fact, fact.question, "trained") for fact in facts]
    texts = context.texts[: settings.sample]
    if settings.choose == "text_nll" and not texts:
        raise InputError("evaluate.choose is text_nll, and no text is held out: choose by acc")

    def lines() -> list[Any]:
        session.publish()
        return [line for line in read_metrics(run.workdir / "metrics.jsonl") if line["stage"] == run.stage]

    def signatures(asked: list[Any], nll: float | None) -> dict[str, str]:
        """What shows now and did not before, by metric; nothing in the first look, which is kept."""
        path = context.parts(run.stage) / "first_look.json"
        look = {"with": {name: getattr(settings, name) for name in ASKED_WITH}, "questions": asked}
        if not session.global_step:
            keep_json(path, look | {"text_nll": nll})
            return {}
        first, logged = kept_json(path) or {}, run_on_process_0(lines, "reading metrics.jsonl")
        if first.get("with") != look["with"]:
            context.say_once(
                f"{run.stage}: no look at the base model in the same way is kept, so that signatures of "
                "failure are told by `report` alone"
            )
            return {}
        far = 2 * session.global_step >= session.total_steps  # before, little is gained by any training
        pairs = {"trained": list(zip(first["questions"], asked, strict=True))}
        system, losses = run.stage.removeprefix("train/"), (first["text_nll"], nll)
        found = of_training(Seen(system, pairs, losses, settings.forgetting, logged if far else ()))
        named = {f"signature_{one.name.replace(' ', '_')}": one.line for one in found}
        return {name: line for name, line in named.items() if not any(name in logs for logs in logged)}

    def look() -> None:
        policy = replace(begun, params=session.params)
        with session.untimed():
            answers = Asker(context, policy, settings).answers(questions)
            outcomes = [outcome(context, *pair) for pair in zip(questions, answers, strict=True)]
            nll = text_nll(context, policy, texts)
            told = signatures(list(map(to_json, outcomes)), nll)
        acc = sum(o.correct for o in outcomes) / len(outcomes)
        hits = sum(o.rank is not None for o in outcomes) / len(outcomes)
        where = f"{run.stage}: after step {session.global_step}, on the sample"
        context.screen.say(f"{where}: ACC {acc:.1%}" + ("" if nll is None else f", text NLL {nll:.3f}"))
        session.log({"sample_acc": acc, "sample_hr": hits, "sample_text_nll": nll})
        for name, line in told.items():
            context.screen.say(f"! {where}: {line}")
            session.log({name: 1.0})
        if run.scored and session.global_step:
            session.score = -acc if nll is None or settings.choose == "acc" else nll
            session.save()

    hook, step = Hook(look, settings.every_steps, when=lambda: run.scored and ended()), session.global_step

    def seen() -> bool:
        due = step if hook.when() else step - step % settings.every_steps
        return any(line["step"] >= due for line in lines() if "sample_acc" in line)

    if settings.every_steps and not run_on_process_0(seen, "reading metrics.jsonl"):
        look()
    return hook
