"""`selfimprove`: stream, continue, judge, learn (Self-Improving Pretraining, arXiv 2601.21343)."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import SelfimproveConfig
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.decoding.decoded import Rollout
from pretrainrl_jax.documents.cut import Cuts
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.collapse import Collapse
from pretrainrl_jax.improvement.cost import comparing, cost_of, rollout_count, told, warnings_of
from pretrainrl_jax.improvement.experience import Experience, Sampled
from pretrainrl_jax.improvement.jobs import Jobs, Seconds, utilisation
from pretrainrl_jax.improvement.learning import coefficients
from pretrainrl_jax.improvement.metrics import Judged, gap_metrics, rollout_metrics, verdict_metrics
from pretrainrl_jax.improvement.outstanding import Outstanding
from pretrainrl_jax.judging.compose import verdicts_per_case
from pretrainrl_jax.stages.context import BASE, Context, Notes, keep_json
from pretrainrl_jax.stages.improvement import Improvement, evaluate_improvement, initial_model, priced
from pretrainrl_jax.stages.learner import Learner
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.training.feed import place_trees
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Session
from pretrainrl_jax.training.step import TrainState, compile_references
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.tree import AnswerTree

SHOWN_PREFIX = 400  # last characters of a prefix that the report shows
TRIES = 20  # steps in a row of which no document teaches anything: the judge sees no difference


def selfimprove(context: Context) -> None:
    """The base model, each method from its start, what came of it, and the report."""
    with ExitStack() as opened:
        improvement = Improvement(context, opened)
        left = [one for one in context.config.selfimprove.systems if not context.done(f"selfimprove/{one}")]
        if left:
            improvement.check()
        if not context.done(BASE):
            pretrain(context)
        for system in left:
            with context.working(f"selfimprove/{system}") as notes:
                notes |= Method(context, improvement, system).improve()
        evaluate_improvement(context, improvement)
    run_on_process_0(lambda: report(context.workdir), "writing the report")


class Method:
    def __init__(self, context: Context, improvement: Improvement, system: str) -> None:
        self._context, self._improvement, self._system = context, improvement, system
        self._settings, self._method = context.config.selfimprove, context.config.methods[system]
        base = initial_model(context, self._method.start)
        self._tokenizer = base.tokenizer
        self._documents = Cuts(context.stream(), base.tokenizer, self._settings, context.config.seed)
        self._asking = improvement.asking(self._method, base.tokenizer)
        self._learner = Learner(
            context,
            f"selfimprove/{system}",
            base,
            {"data": self._documents.stream.identity},
            base.template,
            rate=f"methods.{system}.learning_rate",
            shown={"loss": "loss"},
            own_log=True,
        )
        self._start, self._stage = self._learner.policy, self._learner.run.stage
        # With adapters the initial model is there beside them in any case.
        kept_there = ("resident", "loaded") if self._start.frozen else ("resident",)
        self._resident = self._method.contrasts and self._settings.reference in kept_there

    def improve(self) -> Notes:
        """Cut, continue, judge, learn, step after step."""
        settings, documents, start = self._settings, self._documents.stream, self._start
        state, progress = self._learner.resume()
        if not self._resident:
            start.release()
        self._tell_costs(state)
        self._experience = experience = Experience(progress.stream)
        if experience.documents:
            documents.restore(experience.documents)
        self._collapse = Collapse(settings.entropy_bound, experience.collapse)
        workers = max(self._ahead, int(self._improvement.asks_server(self._method)))
        total = settings.steps * settings.updates
        fruitless = 0  # steps
        with self._learner.session(state, progress, experience, total) as session, Jobs(workers) as jobs:
            judged_there = self._method.judged and self._improvement.judge_model
            self._seconds = Seconds(jobs, on_devices=bool(judged_there))
            outstanding = Outstanding(self._asking, jobs, self._method, self._tokenizer, settings.length)
            for sampled in experience.queue:  # the same as are outstanding
                outstanding.ask(sampled)
            while session.global_step < total and not experience.ended:
                policy = replace(start, params=session.params)
                while not documents.ended and wants_more(
                    settings, session.global_step, len(outstanding), self._ahead
                ):
                    sampled = self._sample(policy)
                    experience.add(sampled, documents)
                    outstanding.ask(sampled)
                try:
                    with self._seconds("waiting" if workers else "judging"):
                        judged = outstanding.take(session.stop_asked)
                except (InputError, OSError):
                    session.keep()  # what was asked of a server took hours
                    raise
                if judged is None:
                    session.stop()
                behind = experience.behind
                experience.take(judged, documents)
                metrics = self._learn(session, policy, [one.tree for one in judged if one.tree])
                fruitless = 0 if metrics else fruitless + 1
                if fruitless == TRIES or (experience.ended and not session.global_step):
                    raise InputError(
                        f"{self._stage}: step after step no document of {len(judged)} teaches anything: the "
                        "judge finds all candidates equal, or gives no verdict. Check documents.path, ask "
                        "for more candidates, or check the judge's parts"
                    )
                if metrics:
                    self._tell(session, judged, metrics, behind)
                    for hook in session.due([session.checkpoint]):
                        hook.run()
            if session.global_step < total:
                ended = f"the documents ended after {session.global_step} of {total} steps"
                self._context.screen.warn(f"{self._stage}: {ended}")
            done = session.finish()
        write_summary(self._context, self._system, session.global_step, experience)
        if self._resident:
            start.release()
        return self._learner.finish(session, done)

    @property
    def _ahead(self) -> int:
        """Steps that are sampled before one is judged."""
        return self._settings.staleness if self._asking.asks else 0

    def _tell_costs(self, state: TrainState) -> None:
        """Before the first step: what it will take, and what is kept on the devices."""
        context, settings, method, start = self._context, self._settings, self._method, self._start
        left = settings.steps - int(state.step) // settings.updates
        cost = cost_of(context.config, method, left)
        taken = told(cost) if method.judged else "nothing is sampled or judged"
        if after := comparing(context.config):
            taken += f", and {after:,} verdicts to compare it with the base model"
        taken += priced(context.config, cost._replace(verdicts=cost.verdicts + after))
        context.screen.say(f"{self._stage}: {left} steps of {settings.documents} documents: {taken}")
        for warning in warnings_of(context.config.judge) if method.judged else ():
            context.screen.warn(warning)
        kept: dict[str, Any] = {"parameters": (start.frozen, state.params), "optimizer": state.opt_state}
        if self._resident and not start.frozen:
            kept["reference"] = start.params
        if method.judged and (judge := self._improvement.judge_model):
            kept["judge"] = judge.params
        sizes = {name: sum(x.nbytes for x in jax.tree.leaves(arrays)) for name, arrays in kept.items()}
        shown = [f"{name} {size / 1e6:,.1f} MB" for name, size in sizes.items()]
        context.screen.say(f"{self._stage}: on the devices: {', '.join(shown)}")

    def _sample(self, policy: Loaded) -> Sampled:
        """The next documents, continued by the policy."""
        config = self._context.config
        with self._seconds("reading"):
            cuts = self._documents.take(self._settings.documents)
        with self._seconds("sampling"):
            rollouts: list[list[Rollout]] = [[] for _ in cuts]
            if count := rollout_count(config, self._method):
                rollouts = policy.rollouts(
                    [cut.prefix for cut in cuts],
                    samples=count,
                    max_new_tokens=self._settings.suffix,
                    temperature=config.rollouts.temperature,
                    top_p=config.rollouts.top_p,
                    seed=config.seed,
                    batch=config.rollouts.batch,
                    numbers=[cut.number for cut in cuts],
                    shortest=bucket(self._settings.length - self._settings.suffix) // 2,
                )
        return Sampled(self._experience.steps, tuple(cuts), tuple(map(tuple, rollouts)))

    def _learn(self, session: Session, policy: Loaded, trees: Sequence[AnswerTree]) -> dict[str, Any]:
        """The updates of a step; gives what the first of them measured, {} where there is no tree."""
        method, metrics = self._method, dict[str, Any]()
        optimizer = self._context.config.optimizer
        schedule = Schedule(method.learning_rate, session.total_steps, optimizer.warmup, optimizer.final)
        with self._seconds("reference"):
            batches = self._lay(trees)
            if method.contrasts and batches:
                batches = self._with_references(policy, batches)
        with self._seconds("training"):
            for batch in batches:
                updated = session.step(batch, coefficients(method), schedule)
                metrics = metrics or jax.device_get(updated)  # of the policy before the step's updates
        return metrics

    def _lay(self, trees: Sequence[AnswerTree]) -> list[PackedBatch]:
        """The trees of each update of a step as a batch on the devices; none of nothing."""
        settings, model, batches = self._settings, self._start.plain.model, list[PackedBatch]()
        for place in range(settings.updates):
            if part := trees[place :: settings.updates]:
                batch, self._experience.holds = place_trees(
                    part,
                    self._context.mesh,
                    settings.row_length or model.suitable_row(settings.length + settings.suffix),
                    self._experience.holds,
                    settings.grad_accum_steps,
                    sequences=not self._method.contrasts,  # then a tree has one branch
                )
                batches.append(batch)
        return batches

    def _with_references(self, policy: Loaded, batches: Sequence[PackedBatch]) -> list[PackedBatch]:
        """The batches with log-probabilities of the initial model, or of the policy before its updates."""
        reference, loaded = self._start.plain if self._resident else policy, None
        if self._settings.reference == "loaded" and not self._resident:
            reference = loaded = initial_model(self._context, self._method.start)
        give = compile_references(reference.model, self._context.mesh)
        given = [jax.block_until_ready(give(reference.params, batch)) for batch in batches]
        if loaded:
            loaded.release()
        return given

    def _tell(self, session: Session, judged: Sequence[Judged], metrics: dict[str, Any], behind: int) -> None:
        """What a step found, in metrics.jsonl, on the bar, in warnings and among the examples."""
        context, step = self._context, session.global_step
        seen = verdict_metrics(judged) | rollout_metrics(judged) | gap_metrics(metrics)
        spent = self._seconds.metrics() | {"staleness": float(behind)}
        left_out = ("questions", "logp_gap_")  # which is told in another form
        updated = {name: float(x) for name, x in metrics.items() if not name.startswith(left_out)}
        session.log(updated | seen | spent)
        if self._ahead or (self._method.judged and verdicts_per_case(context.config.judge, 2)):
            session.show(utilisation(spent))
        for sentence in self._collapse.look(step, seen):
            context.screen.warn(f"{self._stage}: {sentence}")
        write_examples(context, self._system, step, session.total_steps, judged)


def wants_more(settings: SelfimproveConfig, updates: int, outstanding: int, ahead: int) -> bool:
    """Whether the documents of another step are to be sampled, so many being judged, before any is awaited.

    It looks at nothing that depends on how quick the judge is: so a run is the same with any.
    """
    needed = updates + outstanding * settings.updates < settings.steps * settings.updates
    return needed and outstanding <= ahead


def write_examples(context: Context, system: str, step: int, total: int, judged: Sequence[Judged]) -> None:
    """Keep documents of the first step and of the last, as many of each, with all candidates and scores."""
    settings = context.config.selfimprove
    path = context.workdir / "selfimprove" / system / "examples.json"
    is_last = total - step < settings.updates
    if not judged or not judged[0].scores:
        return

    def write() -> None:
        examples = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        examples = [one for one in examples if one["step"] < step]  # a step that is made again is kept once
        room = (settings.kept + 1) // 2 if not examples else settings.kept // 2 if is_last else 0
        if room:
            write_json(path, examples + [_example(one, step) for one in judged[:room]])

    run_on_process_0(write, f"writing {path.name}")


def _example(one: Judged, step: int) -> dict[str, Any]:
    roles = {branch.tokens: branch.role for branch in one.tree.branches} if one.tree else {}
    return {
        "step": step,
        "name": one.cut.name,
        "prefix": one.prefix[-SHOWN_PREFIX:],
        "candidates": [
            {
                "kind": candidate.kind,
                "text": candidate.text,
                "score": score,
                "parts": {name: scores[place] for name, scores in one.parts.items()},
                "role": roles.get(candidate.tokens, ""),
            }
            for place, (candidate, score) in enumerate(zip(one.candidates, one.scores, strict=True))
        ],
    }


def write_summary(context: Context, system: str, steps: int, experience: Experience) -> None:
    """What a method's run took and what happened on the way."""
    config, method = context.config, context.config.methods[system]
    cost = cost_of(config, method, steps // config.selfimprove.updates)
    summary = {
        "label": method.label or system,
        "update": method.update,
        "start": method.start,
        "candidates": list(method.candidates),
        "steps": steps,
        "documents": experience.taken,
        "dropped": experience.dropped,
        "ties": experience.ties,
        "collapsed": experience.collapse.get("told", []),
        **cost._asdict(),
    }
    keep_json(context.workdir / "selfimprove" / system / "summary.json", summary)
