"""A look at a policy while it trains: the same few questions and texts every time."""

from collections.abc import Callable
from dataclasses import replace

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.report.inputs import read_metrics
from pretrainrl_jax.stages.asking import Asker, outcome
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.evaluate import text_nll
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.session import Hook, Session


def watch(context: Context, session: Session, begun: Loaded, ended: Callable[[], bool]) -> Hook:
    """Look at what training begins or goes on with, unless an earlier run has looked since it was due.

    A look evaluates a session's policy on `evaluate.sample` trained questions and as many held-out texts.
    What it finds is a line of its own in metrics.jsonl: `sample_acc`, `sample_hr` and `sample_text_nll`. It
    changes nothing in training, and is no part of its seconds; parameters of `begun`, the policy as it began,
    are not read. Where the best step is to be chosen, the policy is saved with its score.

    Gives the turn to look again: every so many steps; where a checkpoint is chosen, also once it has `ended`.
    Raises InputError if the best step is to be chosen by text, and there is none.
    """
    settings, run = context.config.evaluate, session.run
    facts = subsample(context.asked(context.trained), settings.sample, context.config.seed)
    questions = [(fact, fact.question, "trained") for fact in facts]
    texts = context.texts[: settings.sample]
    if settings.choose == "text_nll" and not texts:
        raise InputError("evaluate.choose is text_nll, and no text is held out: choose by acc")

    def look() -> None:
        policy = replace(begun, params=session.params)
        with session.untimed():
            answers = Asker(context, policy, settings).answers(questions)
            outcomes = [outcome(context, *pair) for pair in zip(questions, answers, strict=True)]
            nll = text_nll(context, policy, texts)
        acc = sum(o.correct for o in outcomes) / len(outcomes)
        hits = sum(o.rank is not None for o in outcomes) / len(outcomes)
        shown = f"ACC {acc:.1%}" + ("" if nll is None else f", text NLL {nll:.3f}")
        context.screen.say(f"{run.stage}: after step {session.global_step}, on the sample: {shown}")
        session.log({"sample_acc": acc, "sample_hr": hits, "sample_text_nll": nll})
        if run.scored and session.global_step:
            session.score = -acc if nll is None or settings.choose == "acc" else nll
            session.save()

    hook, step = Hook(look, settings.every_steps, when=lambda: run.scored and ended()), session.global_step

    def seen() -> bool:
        due = step if hook.when() else step - step % settings.every_steps
        session.publish()
        own = (line for line in read_metrics(run.workdir / "metrics.jsonl") if line["stage"] == run.stage)
        return any(line["step"] >= due for line in own if "sample_acc" in line)

    if settings.every_steps and not run_on_process_0(seen, "reading metrics.jsonl"):
        look()
    return hook
