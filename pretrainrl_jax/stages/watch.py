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


class Watch:
    """Evaluates a session's policy on `evaluate.sample` trained questions and as many held-out texts.

    What it finds is a line of its own in metrics.jsonl: `sample_acc`, `sample_hr` and `sample_text_nll`. It
    changes nothing in training, and is no part of its seconds; parameters of `begun`, the policy as it began,
    are not read. Raises InputError if the best step is to be chosen by text, and there is none.
    """

    def __init__(self, context: Context, session: Session, begun: Loaded) -> None:
        settings = context.config.evaluate
        facts = subsample(context.asked(context.trained), settings.sample, context.config.seed)
        self._asked = [(fact, fact.question, "trained") for fact in facts]
        self._texts = context.texts[: settings.sample]
        if settings.choose == "text_nll" and not self._texts:
            raise InputError("evaluate.choose is text_nll, and no text is held out: choose by acc")
        self._context, self._session, self._begun, self._settings = context, session, begun, settings

    def look(self) -> None:
        """Evaluate the policy as it is; where the best step is to be chosen, save it with its score."""
        context, session = self._context, self._session
        policy = replace(self._begun, params=session.params)
        with session.untimed():
            answers = Asker(context, policy, self._settings).answers(self._asked)
            answered = zip(self._asked, answers, strict=True)
            outcomes = [outcome(context, asked, beams) for asked, beams in answered]
            nll = text_nll(context, policy, self._texts)
        acc = sum(o.correct for o in outcomes) / len(outcomes)
        hits = sum(o.rank is not None for o in outcomes) / len(outcomes)
        shown = f"ACC {acc:.1%}" + ("" if nll is None else f", text NLL {nll:.3f}")
        context.screen.say(f"{session.run.stage}: after step {session.global_step}, on the sample: {shown}")
        session.log({"sample_acc": acc, "sample_hr": hits, "sample_text_nll": nll})
        if session.run.scored and session.global_step:
            session.score = -acc if nll is None or self._settings.choose == "acc" else nll
            session.save()

    def begin(self, ended: Callable[[], bool]) -> Hook:
        """Look at what training begins or goes on with, unless an earlier run has looked since it was due.

        Gives the turn to look again: every so many steps; where a checkpoint is chosen, also at the end.
        """
        session, every = self._session, self._settings.every_steps
        hook, step = Hook(self.look, every, when=lambda: session.run.scored and ended()), session.global_step

        def seen() -> bool:
            due = step if hook.when() else step - step % every
            session.publish()
            lines = read_metrics(session.run.workdir / "metrics.jsonl")
            own = (line for line in lines if line["stage"] == session.run.stage)
            return any(line["step"] >= due for line in own if "sample_acc" in line)

        if every and not run_on_process_0(seen, "reading metrics.jsonl"):
            self.look()
        return hook
