"""`selfimprove`: stream, continue, judge, learn (Self-Improving Pretraining, arXiv 2601.21343)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax

from pretrainrl_jax.config import MethodConfig
from pretrainrl_jax.config.depends import settings_of
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.decoding.rollouts import Rollout, sample_rollouts
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.candidates import Candidate, candidates_of, rewrite_case
from pretrainrl_jax.improvement.collapse import Collapse
from pretrainrl_jax.improvement.cost import cost_of, price_of, rollout_count, told, warnings_of
from pretrainrl_jax.improvement.experience import Experience
from pretrainrl_jax.improvement.learning import coefficients, judged_tree, plain_tree
from pretrainrl_jax.improvement.metrics import Judged, gap_metrics, rollout_metrics, verdict_metrics
from pretrainrl_jax.judging.protocol import Case, Judge, Rewriter
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.improvement import Improvement, evaluate_improvement, write_examples, write_summary
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.feed import place_trees
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Run, Session, resume
from pretrainrl_jax.training.step import compile_references, compile_step, init_sharded_state
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.tree import AnswerTree

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
            improve(context, improvement, system)
        evaluate_improvement(context, improvement, lambda start: initial_model(context, start))
    run_on_process_0(lambda: report(context.workdir), "writing the report")


def improve(context: Context, improvement: Improvement, system: str) -> None:
    """One method: cut, continue, judge, learn, step after step."""
    config, settings, method = context.config, context.config.selfimprove, context.config.methods[system]
    began = time.perf_counter()
    start = initial_model(context, method.start)
    tokenizer, total = start.tokenizer, settings.steps * settings.updates
    row_length = settings.row_length or settings.length + settings.suffix
    documents = improvement.cuts(tokenizer)
    judge, rewriter = improvement.judge(method), improvement.rewriter(method)

    run = Run(
        context.workdir,
        f"selfimprove/{system}",
        config.checkpoint,
        skip_nonfinite=config.optimizer.nonfinite == "skip",
        about=settings_of(config, f"selfimprove/{system}") | {"data": documents.identity},
        rate=f"methods.{system}.learning_rate",
        shown={"loss": "loss"},
        screen=context.screen,
        command=context.command,
        profile=config.profile_steps,
        own_log=True,
    )
    checkpoints.describe(run.folder, start.model, tokenizer, start.template, start.origin)
    step = compile_step(context.in_training(start.model), config.optimizer, "token", context.mesh)
    state, progress = resume(
        run, init_sharded_state(start.model, start.params, config.optimizer, context.mesh)
    )
    schedule = Schedule(method.learning_rate, total, config.optimizer.warmup, config.optimizer.final)
    resident = method.contrasts and settings.reference == "resident"
    if not resident:
        jax.tree.map(lambda x: x.delete(), start.params)
    kept = {"parameters": state.params, "optimizer": state.opt_state}
    kept |= {"reference": start.params} if resident else {}
    kept |= {"judge": improvement.judge_model.params} if method.judged and improvement.judge_model else {}
    tell_costs(context, run.stage, method, int(state.step), kept)

    experience = Experience(progress.stream)
    if experience.documents:
        documents.restore(experience.documents)
    collapse = Collapse(settings.entropy_bound, experience.collapse)
    fruitless = 0  # steps
    with Session(run, step, state, progress, experience, context.mesh, total) as session:
        improvement.stopping = session.stopping
        while session.global_step < total and not experience.ended:
            seconds = Seconds()
            policy = replace(start, params=session.state.params)
            with seconds("reading"):
                cuts = documents.take(settings.documents)
            with seconds("sampling"):
                rollouts = continue_prefixes(context, method, policy, cuts)
            with seconds("judging"), saved_first(session):
                candidates = gather_candidates(method, rewriter, policy, cuts, rollouts)
                judged = judge_candidates(context, method, judge, policy, cuts, candidates)
            experience.take(judged, documents)
            trees = [one.tree for one in judged if one.tree]
            with seconds("reference"):
                batches = lay(context, method, experience, trees, row_length)
                if method.contrasts:
                    reference = start if resident else None
                    batches = add_references(context, method, reference, policy, batches)
            metrics: dict[str, Any] = {}
            with seconds("training"):
                for batch in batches:
                    updated = session.step(batch, coefficients(method), schedule)
                    metrics = metrics or jax.device_get(updated)  # of the policy that sampled
            fruitless = 0 if trees else fruitless + 1
            if fruitless == TRIES or (experience.ended and not session.global_step):
                raise InputError(f"{run.stage}: {improvement.why_nothing(judged)}")
            if not trees:
                continue
            seen = verdict_metrics(judged) | rollout_metrics(judged) | gap_metrics(metrics)
            session.log(of_training(metrics) | seen | seconds.metrics())
            for sentence in (*collapse.look(session.global_step, seen), *improvement.unmatched(judged)):
                context.screen.warn(f"{run.stage}: {sentence}")
            write_examples(context, system, session.global_step, total, judged)
            for hook in session.due([session.checkpoint]):
                hook.run()
        if session.global_step < total:
            context.screen.warn(
                f"{run.stage}: the documents ended after {session.global_step} of {total} steps"
            )
        done = session.finish()
    write_summary(context, system, session.global_step, experience)
    context.finish(
        run.stage,
        device_seconds=done.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=session.global_step,
        skipped=done.skipped,
    )
    jax.tree.map(lambda x: x.delete(), session.state)
    if resident:
        jax.tree.map(lambda x: x.delete(), start.params)


def initial_model(context: Context, start: str) -> Loaded:
    """The model a method starts from: the base model, or one of its shape with random weights."""
    base = context.load(BASE)
    if start == "base":
        return base
    jax.tree.map(lambda x: x.delete(), base.params)
    initialise = jax.jit(base.model.init, out_shardings=parameter_shardings(base.model, context.mesh))
    return replace(base, params=initialise(jax.random.key(context.config.seed)), origin={})


def continue_prefixes(
    context: Context, method: MethodConfig, policy: Loaded, cuts: Sequence[Cut]
) -> list[list[Rollout]]:
    """The policy's rollouts of each document's prefix."""
    config = context.config
    if not (count := rollout_count(config, method)):
        return [[] for _ in cuts]
    return sample_rollouts(
        policy.model,
        policy.params,
        [cut.prefix for cut in cuts],
        policy.tokenizer.eos,
        samples=count,
        max_new_tokens=config.selfimprove.suffix,
        temperature=config.rollouts.temperature,
        top_p=config.rollouts.top_p,
        seed=config.seed,
        batch=config.rollouts.batch,
        numbers=[cut.number for cut in cuts],
        shortest=bucket(config.selfimprove.length - config.selfimprove.suffix) // 2,
    )


def gather_candidates(
    method: MethodConfig,
    rewriter: Rewriter | None,
    policy: Loaded,
    cuts: Sequence[Cut],
    rollouts: Sequence[Sequence[Rollout]],
) -> list[tuple[Candidate, ...]]:
    """Of each document its original suffix, a rewrite of it, rollouts: those that the method asks for."""
    tokenizer = policy.tokenizer
    rewrites: list[str | None] = [None] * len(cuts)
    if rewriter:
        rewrites = list(rewriter([rewrite_case(tokenizer, cut) for cut in cuts]))
    gathered = zip(cuts, rollouts, rewrites, strict=True)
    return [candidates_of(cut, method.candidates, tokenizer, own, rewrite) for cut, own, rewrite in gathered]


def judge_candidates(
    context: Context,
    method: MethodConfig,
    judge: Judge | None,
    policy: Loaded,
    cuts: Sequence[Cut],
    candidates: Sequence[tuple[Candidate, ...]],
) -> list[Judged]:
    """What the judge says of each document's candidates, and the tree that is learned of it."""
    tokenizer = policy.tokenizer
    if judge is None:
        (kind,) = method.candidates
        ends = tokenizer.bos, tokenizer.eos[0]
        return [
            Judged(cut, "", own, (), {}, plain_tree(cut, kind, own, *ends, context.config.selfimprove.length))
            for cut, own in zip(cuts, candidates, strict=True)
        ]
    texts = (rewrite_case(tokenizer, cut) for cut in cuts)
    cases = [
        Case(
            prefix,
            tuple(candidate.text for candidate in own),
            suffix,
            tuple(candidate.tokens[-1] in tokenizer.eos for candidate in own),
        )
        for (prefix, suffix), own in zip(texts, candidates, strict=True)
    ]
    verdicts = judge(cases)
    return [
        Judged(
            cut,
            case.prefix,
            own,
            tuple(scores),
            {name: tuple(of_part[place]) for name, of_part in verdicts.parts.items()},
            judged_tree(cut, own, scores, method.contrasts),
            verdicts.counts[place],
        )
        for place, (cut, case, own, scores) in enumerate(
            zip(cuts, cases, candidates, verdicts.scores, strict=True)
        )
    ]


def lay(
    context: Context,
    method: MethodConfig,
    experience: Experience,
    trees: Sequence[AnswerTree],
    row_length: int,
) -> list[PackedBatch]:
    """The trees of each update of a step as a batch on the devices; none of nothing."""
    settings, batches = context.config.selfimprove, []
    for place in range(settings.updates):
        if part := trees[place :: settings.updates]:
            batch, experience.holds = place_trees(
                part,
                context.mesh,
                row_length,
                experience.holds,
                settings.grad_accum_steps,
                sequences=not method.contrasts,  # then a tree has one branch
            )
            batches.append(batch)
    return batches


def add_references(
    context: Context,
    method: MethodConfig,
    resident: Loaded | None,
    policy: Loaded,
    batches: Sequence[PackedBatch],
) -> list[PackedBatch]:
    """The batches with log-probabilities of the initial model, or of the policy before its updates."""
    if not batches:
        return []
    reference, loaded = resident or policy, None
    if context.config.selfimprove.reference == "loaded":
        reference = loaded = initial_model(context, method.start)
    give = compile_references(reference.model, context.mesh)
    given = [jax.block_until_ready(give(reference.params, batch)) for batch in batches]
    if loaded:
        jax.tree.map(lambda x: x.delete(), loaded.params)
    return given


def of_training(metrics: dict[str, Any]) -> dict[str, float | None]:
    """What an update measured, but what is told in another form."""
    left_out = ("questions", "logp_gap_")
    return {name: float(value) for name, value in metrics.items() if not name.startswith(left_out)}


@contextmanager
def saved_first(session: Session) -> Iterator[None]:
    """What ends the run within it does so when the state is saved: what was asked of a server took hours."""
    try:
        yield
    except (InputError, OSError):
        session.keep()
        raise


class Seconds:
    """Where the time of a step goes."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """What is done within it is added to `what`."""
        began = time.perf_counter()
        yield
        self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - began

    def metrics(self) -> dict[str, float | None]:
        """Seconds by name."""
        return {f"seconds_{what}": spent for what, spent in self._spent.items()}


def tell_costs(
    context: Context, stage: str, method: MethodConfig, updates: int, kept: dict[str, Any]
) -> None:
    """Before the first step: what it will take, and what is kept on the devices."""
    settings, say = context.config.selfimprove, context.screen.say
    left = settings.steps - updates // settings.updates
    cost = cost_of(context.config, method, left)
    shown = told(cost) if method.judged else "nothing is sampled or judged"
    price = price_of(context.config, cost)
    shown += f", which cost {price:,.2f} at most, about, by the prices given" if price else ""
    say(f"{stage}: {left} steps of {settings.documents} documents: {shown}")
    for warning in warnings_of(context.config.judge) if method.judged else ():
        context.screen.warn(warning)
    shown = [f"{name} {nbytes(arrays) / 1e6:,.1f} MB" for name, arrays in kept.items()]
    say(f"{stage}: on the devices: {', '.join(shown)}")


def nbytes(arrays: Any) -> int:
    """Of all arrays of a tree together, whatever the mesh."""
    return sum(x.nbytes for x in jax.tree.leaves(arrays))
