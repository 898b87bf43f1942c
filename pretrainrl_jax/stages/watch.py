"""A look at a policy while it trains: the same few questions and texts every time."""

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.report.inputs import read_metrics
from pretrainrl_jax.stages.asking import answers, outcome, rates
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.evaluate import text_nll
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.session import Session


class Watch:
    """Evaluates a session's policy on `evaluate.sample` trained questions and as many held-out texts.

    What it finds is a line of its own in metrics.jsonl: `sample_acc`, `sample_hr` and `sample_text_nll`. It
    changes nothing in training, and is no part of its seconds; parameters of `base` are not read. Raises
    InputError if the best step is to be chosen by text, and there is none.
    """

    def __init__(self, context: Context, session: Session, base: Loaded) -> None:
        settings = context.config.evaluate
        facts = subsample(context.asked(context.trained), settings.sample, context.config.seed)
        self._asked = [(fact, fact.question, "trained") for fact in facts]
        self._texts = context.texts[: settings.sample]
        if settings.choose == "text_nll" and not self._texts:
            raise InputError("evaluate.choose is text_nll, and no text is held out: choose by acc")
        self._context, self._session, self._base, self._settings = context, session, base, settings

    def look(self) -> None:
        """Evaluate the policy as it is; where the best step is to be chosen, save it with its score."""
        context, session, base = self._context, self._session, self._base
        policy = Loaded(base.model, session.state.params, base.tokenizer, base.template)
        with session.untimed():
            answered = zip(self._asked, answers(context, policy, self._asked), strict=True)
            shares = rates([outcome(context, asked, beams) for asked, beams in answered])
            nll = text_nll(context, policy, self._texts)
        shown = f"ACC {shares['ACC']:.1%}" + ("" if nll is None else f", text NLL {nll:.3f}")
        context.screen.say(f"{session.run.stage}: after step {session.global_step}, on the sample: {shown}")
        session.log({"sample_acc": shares["ACC"], "sample_hr": shares["HR"], "sample_text_nll": nll})
        if session.run.scored and session.global_step:
            session.score = -shares["ACC"] if nll is None or self._settings.choose == "acc" else nll
            session.save()

    def begin(self) -> None:
        """Look at what training begins with, unless an earlier run has."""
        every = self._settings.every_steps
        if not every or self._session.global_step % every:
            return
        path, stage = self._session.run.workdir / "metrics.jsonl", self._session.run.stage

        def seen() -> bool:
            lines = (m for m in read_metrics(path) if m["stage"] == stage and "sample_acc" in m)
            return any(line["step"] == self._session.global_step for line in lines)

        if not run_on_process_0(seen, f"reading {path.name}"):
            self.look()
