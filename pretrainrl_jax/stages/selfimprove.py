"""`selfimprove`: stream, continue, judge, learn (Self-Improving Pretraining, arXiv 2601.21343)."""

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax

from pretrainrl_jax.config import MethodConfig, SelfimproveConfig
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.decoding.rollouts import Rollout, sample_rollouts
from pretrainrl_jax.documents.cut import Cut, Cuts
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.collapse import Collapse
from pretrainrl_jax.improvement.cost import comparing, cost_of, price_of, rollout_count, told, warnings_of
from pretrainrl_jax.improvement.experience import Experience, Sampled
from pretrainrl_jax.improvement.jobs import Jobs, Seconds, utilisation
from pretrainrl_jax.improvement.learning import coefficients
from pretrainrl_jax.improvement.metrics import gap_metrics, rollout_metrics, verdict_metrics
from pretrainrl_jax.improvement.outstanding import Asking, Outstanding
from pretrainrl_jax.judging.compose import verdicts_per_case
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.improved import evaluate_improvement
from pretrainrl_jax.stages.improvement import Improvement, write_examples, write_summary
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.feed import place_trees
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Session, resume
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
    start = context.learning(f"selfimprove/{system}", initial_model(context, method.start))
    adapts = context.adapts(start)
    tokenizer, total = start.tokenizer, settings.steps * settings.updates
    row_length = settings.row_length or settings.length + settings.suffix
    documents = improvement.cuts(tokenizer)
    judge, rewriter = improvement.judge(method), improvement.rewriter(method)

    run = context.run(
        f"selfimprove/{system}",
        {"data": documents.identity},
        rate=f"methods.{system}.learning_rate",
        shown={"loss": "loss"},
        own_log=True,
        adapts=adapts,
    )
    checkpoints.describe(run.folder, start.model, tokenizer, start.template, start.origin, adapts)
    step = compile_step(context.in_training(start.model), config.optimizer, "token", context.mesh)
    state, progress = resume(
        run, init_sharded_state(start.model, start.params, config.optimizer, context.mesh)
    )
    schedule = Schedule(method.learning_rate, total, config.optimizer.warmup, config.optimizer.final)
    frozen = start.frozen  # with adapters the initial model is there beside them in any case
    kept_there = ("resident", "loaded") if frozen else ("resident",)
    resident = method.contrasts and settings.reference in kept_there
    if not resident:
        start.release()
    kept = {"parameters": (frozen, state.params), "optimizer": state.opt_state}
    kept |= {"reference": start.params} if resident and not frozen else {}
    kept |= {"judge": improvement.judge_model.params} if method.judged and improvement.judge_model else {}
    tell_costs(context, run.stage, method, int(state.step), kept)

    experience = Experience(progress.stream)
    if experience.documents:
        documents.restore(experience.documents)
    collapse = Collapse(settings.entropy_bound, experience.collapse)
    by_model = config.rewriter.is_model
    asking = Asking(judge, rewriter, tokenizer.copy() if rewriter else tokenizer, by_model)
    ahead = settings.staleness if asking.asks else 0  # steps that are sampled before one is judged
    fruitless = 0  # steps
    workers = max(ahead, int(improvement.asks_server(method)))
    with (
        Session(run, step, state, progress, experience, context.mesh, total, frozen) as session,
        Jobs(workers) as jobs,
    ):
        seconds = Seconds(jobs, on_devices="judge" in kept)
        outstanding = Outstanding(asking, jobs, method, tokenizer, settings.length)  # as in experience.queue
        for sampled in experience.queue:
            outstanding.ask(sampled)
        while session.global_step < total and not experience.ended:
            policy = replace(start, params=session.params)
            while not documents.ended and wants_more(settings, session.global_step, len(outstanding), ahead):
                sampled = sample(context, method, policy, documents, experience.steps, seconds)
                experience.add(sampled, documents)
                outstanding.ask(sampled)
            with seconds("waiting" if workers else "judging"), saved_first(session):
                judged = outstanding.take(lambda: session.stop_asked)
            if judged is None:
                session.stop()
            behind = experience.behind
            experience.take(judged, documents)
            trees = [one.tree for one in judged if one.tree]
            with seconds("reference"):
                batches = lay(context, method, experience, trees, row_length)
                if method.contrasts:
                    reference = start.plain if resident else None
                    batches = add_references(context, method, reference, policy, batches)
            metrics: dict[str, Any] = {}
            with seconds("training"):
                for batch in batches:
                    updated = session.step(batch, coefficients(method), schedule)
                    metrics = metrics or jax.device_get(updated)  # of the policy before the step's updates
            fruitless = 0 if trees else fruitless + 1
            if fruitless == TRIES or (experience.ended and not session.global_step):
                raise InputError(f"{run.stage}: {improvement.why_nothing(judged)}")
            if not trees:
                continue
            seen = verdict_metrics(judged) | rollout_metrics(judged) | gap_metrics(metrics)
            spent = seconds.metrics() | {"staleness": float(behind)}
            session.log(of_training(metrics) | seen | spent)
            if ahead or (method.judged and verdicts_per_case(config.judge, 2)):
                session.show(utilisation(spent))
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
    session.release()
    if resident:
        start.release()


def initial_model(context: Context, start: str) -> Loaded:
    """The model a method starts from: the base model, or one of its shape with random weights."""
    base = context.load(BASE)
    if start == "base":
        return base
    jax.tree.map(lambda x: x.delete(), base.params)
    initialise = jax.jit(base.model.init, out_shardings=parameter_shardings(base.model, context.mesh))
    return replace(base, params=initialise(jax.random.key(context.config.seed)), origin={})


def wants_more(settings: SelfimproveConfig, updates: int, outstanding: int, ahead: int) -> bool:
    """Whether the documents of another step are to be sampled, so many being judged, before any is awaited.

    It looks at nothing that depends on how quick the judge is: so a run is the same with any.
    """
    needed = updates + outstanding * settings.updates < settings.steps * settings.updates
    return needed and outstanding <= ahead


def sample(
    context: Context, method: MethodConfig, policy: Loaded, documents: Cuts, steps: int, seconds: Seconds
) -> Sampled:
    """The next documents, continued by the policy, which has learned from so many steps."""
    with seconds("reading"):
        cuts = documents.take(context.config.selfimprove.documents)
    with seconds("sampling"):
        rollouts = continue_prefixes(context, method, policy, cuts)
    return Sampled(steps, tuple(cuts), tuple(map(tuple, rollouts)))


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
    if context.config.selfimprove.reference == "loaded" and not resident:
        reference = loaded = initial_model(context, method.start)
    give = compile_references(reference.model, context.mesh)
    given = [jax.block_until_ready(give(reference.params, batch)) for batch in batches]
    if loaded:
        jax.tree.map(lambda x: x.delete(), loaded.params)
    return given


@contextmanager
def saved_first(session: Session) -> Generator[None]:
    """What ends the run within it does so once the state is saved: what was asked of a server took hours."""
    try:
        yield
    except (InputError, OSError):
        session.keep()
        raise


def of_training(metrics: dict[str, Any]) -> dict[str, float | None]:
    """What an update measured, but what is told in another form."""
    left_out = ("questions", "logp_gap_")
    return {name: float(value) for name, value in metrics.items() if not name.startswith(left_out)}


def tell_costs(
    context: Context, stage: str, method: MethodConfig, updates: int, kept: dict[str, Any]
) -> None:
    """Before the first step: what it will take, and what is kept on the devices."""
    settings, say = context.config.selfimprove, context.screen.say
    left = settings.steps - updates // settings.updates
    cost = cost_of(context.config, method, left)
    taken = told(cost) if method.judged else "nothing is sampled or judged"
    if after := comparing(context.config):
        taken += f", and {after:,} verdicts to compare it with the base model"
    price = price_of(context.config, cost._replace(verdicts=cost.verdicts + after))
    taken += f", which cost about {price:,.2f} at most, by the prices given" if price else ""
    say(f"{stage}: {left} steps of {settings.documents} documents: {taken}")
    for warning in warnings_of(context.config.judge) if method.judged else ():
        context.screen.warn(warning)
    shown = [f"{name} {nbytes(arrays) / 1e6:,.1f} MB" for name, arrays in kept.items()]
    say(f"{stage}: on the devices: {', '.join(shown)}")


def nbytes(arrays: Any) -> int:
    """Of all arrays of a tree together, whatever the mesh."""
    return sum(x.nbytes for x in jax.tree.leaves(arrays))
