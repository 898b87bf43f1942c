"""`selfimprove --train judge|rewriter`: sample outputs, see what they earn, learn, again (GRPO)."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.decoding.rollouts import Rollout, sample_rollouts
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.experience import Turns
from pretrainrl_jax.improvement.grading import REWRITES, VERDICTS, Graded, measured, metrics_of, sentence
from pretrainrl_jax.improvement.labels import SAFE, Labelled, digest_labels, split_labels
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.objectives.grpo import advantages
from pretrainrl_jax.stages.context import BASE, Context, say
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.rewarded import with_logps
from pretrainrl_jax.stages.tuning_tasks import Task, judge_task, rewriter_task
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.feed import place_trees
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Hook, Session, resume
from pretrainrl_jax.training.step import compile_step, init_sharded_state
from pretrainrl_jax.trees.tree import AnswerTree, Branch

TASKS = {"judge": judge_task, "rewriter": rewriter_task}
OUTCOMES = {"judge": VERDICTS, "rewriter": REWRITES}
FORM = {"ntp": {"answer": 1.0}}  # the loss by which the form of an output is shown
KEPT = 20  # held-out outputs that are kept to be read


def tune(context: Context, who: str) -> None:
    """A judge or a rewriter of the base model; it lies in checkpoints/tuning/<who>."""
    if not context.config.model_alone and not context.done(BASE):
        pretrain(context)
    if not context.done(f"tuning/{who}"):
        with ExitStack() as opened:
            learn(context, who, opened)


def learn(context: Context, who: str, opened: ExitStack) -> None:
    """Labelled texts, prompts; then batch after batch outputs, rewards, advantages, and steps on them."""
    config, stage = context.config, f"tuning/{who}"
    began = time.perf_counter()
    base = context.load(BASE)
    task = TASKS[who](context, base.tokenizer, opened)
    settings, how = task.settings, task.settings.grpo
    examples, longest = task.fitting(f"tuning.{who}")
    context.screen.say(f"{stage}: {task.labels._replace(examples=examples).told}")
    learned, held_out = split_labels(examples, settings.held_out)
    # Of what is to be rewritten no output is known.
    formed = [one for one in learned if one.part != "rewrite" or one.label == SAFE[True]]
    format_steps = settings.format_steps if formed else 0
    row_length = longest + settings.samples * settings.tokens
    about = {
        "labelled texts": digest_labels(examples),
        "prompts": short_digest([[part, prompt.text] for part, prompt in task.prompts.items()]),
    }
    begun = context.learning(stage, base)
    base, adapts = begun.plain, context.adapts(begun)
    run = context.run(
        stage,
        about,
        rate=f"tuning.{who}.learning_rate",
        shown={"loss": "loss"},
        own_log=True,
        adapts=adapts,
    )
    checkpoints.describe(run.folder, begun.model, base.tokenizer, base.template, base.origin, adapts)
    step = compile_step(
        context.in_training(begun.model), config.optimizer, "token", context.mesh, grpo_form=how.form
    )
    state, progress = resume(
        run, init_sharded_state(begun.model, begun.params, config.optimizer, context.mesh)
    )
    begun.release()

    sizes = settings.prompts, format_steps, settings.steps, settings.measure_every
    turns = Turns(formed, learned, config.seed, *sizes, progress.stream)
    total = format_steps + settings.updates * settings.steps
    context.screen.say(
        f"{stage}: {settings.steps} steps of {settings.prompts} prompts, {settings.samples} outputs of each; "
        f"{len(learned):,} texts to learn, {len(held_out):,} held out"
    )
    with Session(run, step, state, progress, turns, context.mesh, total, begun.frozen) as session:

        def measure() -> None:
            with session.untimed():
                policy = replace(begun, params=session.params)
                result = measure_held_out(context, task, policy, held_out)
            turns.measured.append({"batch": turns.batch, "step": session.global_step} | result)
            session.log(metrics_of(result["groups"]))
            context.screen.say(f"{stage}: held out, after step {session.global_step}: {result['told']}")

        hooks = [Hook(measure, when=lambda: bool(held_out) and turns.is_to_be_measured), session.checkpoint]
        if held_out and turns.is_to_be_measured:
            measure()
        while not turns.ended:
            shows_form = turns.shows_form
            numbers, of_batch = turns.take()
            policy = replace(begun, params=session.params)
            if shows_form:
                trees = form_trees(task, of_batch, numbers)
                coefficients, updates, rate, told = FORM, 1, settings.format_rate, {}
            else:
                rollouts = write_outputs(context, task, policy, of_batch, numbers)
                grades = task.grade(of_batch, texts_of(task, rollouts))
                trees = graded_trees(task, of_batch, rollouts, grades)
                coefficients, updates, rate = {"grpo": how.coefficients}, how.updates, settings.learning_rate
                told = graded_metrics(rollouts, grades, OUTCOMES[who])
            batch, turns.holds = place_trees(
                trees, context.mesh, row_length, turns.holds, settings.grad_accum_steps
            )
            if not shows_form:
                batch = with_logps(context, how, base, policy, batch)
            constant = Schedule(rate, total, 0.0, 1.0)
            metrics = [session.step(batch, coefficients, constant) for _ in range(updates)]
            first = {name: float(value) for name, value in jax.device_get(metrics[0]).items()}
            session.log(first | told)
            for hook in session.due(hooks):
                hook.run()
        done = session.finish()

    def write() -> None:
        path = context.workdir / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path,
            {
                "lines": task.labels.lines,
                "left_out": dict(task.labels.left_out),
                "learned": len(learned),
                "held_out": len(held_out),
                "measured": turns.measured,
            },
        )

    run_on_process_0(write, f"writing {stage}.json")
    context.finish(
        stage,
        device_seconds=done.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=session.global_step,
        skipped=done.skipped,
    )
    if turns.measured:
        first, last = turns.measured[0]["told"], turns.measured[-1]["told"]
        say(f"{who}, on texts held out: {last}; before: {first}")
    session.release()


def write_outputs(
    context: Context,
    task: Task,
    policy: Loaded,
    examples: Sequence[Labelled],
    numbers: Sequence[int],
    best: bool = False,
) -> list[list[Rollout]]:
    """Outputs that a model writes about each example: samples, or the one that greedy decoding finds."""
    settings = task.settings
    return sample_rollouts(
        policy.model,
        policy.params,
        task.encoded(examples),
        policy.tokenizer.eos,
        samples=1 if best else settings.samples,
        max_new_tokens=settings.tokens,
        temperature=0.0 if best else settings.temperature,
        top_p=1.0 if best else settings.top_p,
        seed=context.config.seed,
        batch=settings.batch,
        numbers=numbers,
        shortest=16,
    )


def texts_of(task: Task, rollouts: Sequence[Sequence[Rollout]]) -> list[list[str]]:
    """What the outputs say, their ends left out."""
    tokenizer = task.tokenizer
    return [[tokenizer.decode(tokenizer.without_end(one.tokens)) for one in own] for own in rollouts]


def form_trees(task: Task, examples: Sequence[Labelled], numbers: Sequence[int]) -> list[AnswerTree]:
    """Prompts with an output of the right form to learn."""
    prompts = task.encoded(examples)
    return [
        AnswerTree(example.where, prompt, (Branch(task.lesson(example, number), "chosen"),))
        for example, number, prompt in zip(examples, numbers, prompts, strict=True)
    ]


def graded_trees(
    task: Task,
    examples: Sequence[Labelled],
    rollouts: Sequence[Sequence[Rollout]],
    grades: Sequence[Sequence[Graded]],
) -> list[AnswerTree]:
    """Prompts with their outputs as candidates, each with its advantage."""
    trees = []
    for example, prompt, own, graded in zip(examples, task.encoded(examples), rollouts, grades, strict=True):
        gained = advantages([one.reward for one in graded], task.settings.form)
        branches = (
            Branch(rollout.tokens, "candidate", advantage=float(value), source="sample")
            for rollout, value in zip(own, gained, strict=True)
        )
        trees.append(AnswerTree(example.where, prompt, tuple(branches)))
    return trees


def graded_metrics(
    rollouts: Sequence[Sequence[Rollout]], grades: Sequence[Sequence[Graded]], outcomes: Sequence[str]
) -> dict[str, float]:
    """What a batch's outputs were: rewards, shares of what came of them, their length."""
    rewards = np.array([[one.reward for one in own] for own in grades])
    counts = Counter(one.outcome for own in grades for one in own)
    return {f"outputs_{outcome}": counts[outcome] / rewards.size for outcome in outcomes} | {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(axis=1, ddof=1).mean()),
        "groups_equal": float((rewards.max(1) == rewards.min(1)).mean()),
        "output_tokens": float(np.mean([len(one.tokens) for own in rollouts for one in own])),
    }


def measure_held_out(
    context: Context, task: Task, policy: Loaded, held_out: Sequence[Labelled]
) -> dict[str, Any]:
    """What greedy outputs earn on what is held out, and some of them."""
    rollouts = write_outputs(context, task, policy, held_out, range(len(held_out)), best=True)
    texts = texts_of(task, rollouts)
    grades = [own[0] for own in task.grade(held_out, texts)]
    groups = measured(held_out, grades)
    kept = [
        {"where": one.where, "label": one.label, "output": own[0], "outcome": graded.outcome}
        for one, own, graded in list(zip(held_out, texts, grades, strict=True))[:KEPT]
    ]
    return {"groups": groups, "told": sentence(groups), "outputs": kept}
