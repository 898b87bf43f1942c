"""A look at a policy while it trains: the same few questions and texts every time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import Outcome, to_json
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.knowledge.signatures import Seen, Signature, of_training
from pretrainrl_jax.report.inputs import read_metrics
from pretrainrl_jax.stages.asking import Asker, outcome, rates
from pretrainrl_jax.stages.context import Context, keep_json, kept_json
from pretrainrl_jax.stages.evaluate import text_nll
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.session import Hook, Session

ASKED_WITH = ("template", "beams", "max_new_tokens", "match", "sample", "text")  # what a look depends on


class Watch:
    """Evaluates a session's policy on `evaluate.sample` trained questions and as many held-out texts.

    What it finds is a line of its own in metrics.jsonl: `sample_acc`, `sample_hr` and `sample_text_nll`. A
    signature of failure that shows beside the first look, at the base model, is said once, with a line
    `signature_NAME`. It changes nothing in training, and is no part of its seconds; parameters of `begun`,
    the policy as it began, are not read. Raises InputError if the best step is to be chosen by text, and
    there is none.
    """

    def __init__(self, context: Context, session: Session, begun: Loaded) -> None:
        settings = context.config.evaluate
        facts = subsample(context.asked(context.trained), settings.sample, context.config.seed)
        self._asked = [(fact, fact.question, "trained") for fact in facts]
        self._texts = context.texts[: settings.sample]
        if settings.choose == "text_nll" and not self._texts:
            raise InputError("evaluate.choose is text_nll, and no text is held out: choose by acc")
        self._context, self._session, self._begun, self._settings = context, session, begun, settings
        self._first_look = context.parts(session.run.stage) / "first_look.json"

    def look(self) -> None:
        """Evaluate the policy as it is; where the best step is to be chosen, save it with its score."""
        context, session = self._context, self._session
        policy = replace(self._begun, params=session.params)
        with session.untimed():
            answers = Asker(context, policy, self._settings).answers(self._asked)
            answered = zip(self._asked, answers, strict=True)
            outcomes = [outcome(context, asked, beams) for asked, beams in answered]
            nll = text_nll(context, policy, self._texts)
            told = self._signatures(outcomes, nll)
        shares = rates(outcomes)
        shown = f"ACC {shares['ACC']:.1%}" + ("" if nll is None else f", text NLL {nll:.3f}")
        where = f"{session.run.stage}: after step {session.global_step}, on the sample"
        context.screen.say(f"{where}: {shown}")
        session.log({"sample_acc": shares["ACC"], "sample_hr": shares["HR"], "sample_text_nll": nll})
        for signature in told:
            context.screen.say(f"! {where}: {signature.line}")
            session.log({_metric(signature): 1.0})
        if session.run.scored and session.global_step:
            session.score = -shares["ACC"] if nll is None or self._settings.choose == "acc" else nll
            session.save()

    def _signatures(self, outcomes: list[Outcome], nll: float | None) -> list[Signature]:
        """Those that show now and did not before; none in the first look, which is kept."""
        session, path = self._session, self._first_look
        asked_with = {name: getattr(self._settings, name) for name in ASKED_WITH}
        if not session.global_step:
            first = {"with": asked_with, "questions": [to_json(o) for o in outcomes], "text_nll": nll}
            keep_json(path, first)
            return []
        first, lines = kept_json(path) or {}, run_on_process_0(self._lines, "reading metrics.jsonl")
        if first.get("with") != asked_with:
            self._context.say_once(
                f"{session.run.stage}: no look at the base model in the same way is kept, so that "
                "signatures of failure are told by `report` alone"
            )
            return []
        far = 2 * session.global_step >= session.total_steps  # before, little is gained by any training
        pairs = list(zip(first["questions"], map(to_json, outcomes), strict=True))
        system = session.run.stage.removeprefix("train/")
        losses, bound = (first["text_nll"], nll), self._settings.forgetting
        seen = Seen(system, {"trained": pairs}, losses, bound, lines if far else ())
        told = {name for line in lines for name in line}
        return [s for s in of_training(seen) if _metric(s) not in told]

    def _lines(self) -> list[Any]:
        """This stage's lines of metrics.jsonl."""
        self._session.publish()
        path, stage = self._session.run.workdir / "metrics.jsonl", self._session.run.stage
        return [line for line in read_metrics(path) if line["stage"] == stage]

    def begin(self, ended: Callable[[], bool]) -> Hook:
        """Look at what training begins or goes on with, unless an earlier run has looked since it was due.

        Gives the turn to look again: every so many steps; where a checkpoint is chosen, also at the end.
        """
        session, every = self._session, self._settings.every_steps
        hook, step = Hook(self.look, every, when=lambda: session.run.scored and ended()), session.global_step

        def seen() -> bool:
            due = step if hook.when() else step - step % every
            return any(line["step"] >= due for line in self._lines() if "sample_acc" in line)

        if every and not run_on_process_0(seen, "reading metrics.jsonl"):
            self.look()
        return hook


def _metric(signature: Signature) -> str:
    return f"signature_{signature.name.replace(' ', '_')}"
