"""`selfimprove --train judge|rewriter`: sample outputs, see what they earn, learn, again (GRPO)."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretrainrl_jax.config import LabelledConfig
from pretrainrl_jax.decoding.decoded import Rollout
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.improvement import grading
from pretrainrl_jax.improvement.labels import SAFE, Labelled, Labels, digest_labels, read_labels, split_labels
from pretrainrl_jax.judging.compose import PARTS
from pretrainrl_jax.judging.local import encode_plain, last_tokens
from pretrainrl_jax.judging.prompts import Prompt, judge_prompt, read_prompt
from pretrainrl_jax.judging.protocol import Case
from pretrainrl_jax.judging.rewriting import last_words
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.stages.context import BASE, Context, Notes, keep_json, say
from pretrainrl_jax.stages.improvement import Improvement, asked_by
from pretrainrl_jax.stages.learner import Learner
from pretrainrl_jax.stages.practice import Practice, Tried
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Hook
from pretrainrl_jax.training.turns import Turns, shuffled
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch

KEPT = 20  # held-out outputs that are kept to be read
TOGETHER = 1024  # prompts cut into tokens at a time


@dataclass(frozen=True)
class Task:
    settings: LabelledConfig
    labels: Labels
    tokenizer: Tokenizer
    prompts: dict[str, Prompt]  # by part
    fill: Callable[[Labelled], str]  # the prompt about an example
    shows: Callable[[Labelled, int], str]  # an output of the right form; a verdict is drawn by the number
    grade: Callable[[Sequence[Labelled], Sequence[Sequence[str]]], list[list[grading.Graded]]]
    outcomes: Sequence[str]  # what may come of an output

    def encoded(self, examples: Sequence[Labelled]) -> list[tuple[int, ...]]:
        tokens = encode_plain(self.tokenizer, [self.fill(one) for one in examples])
        return [self.tokenizer.start + ids for ids in tokens]

    def lesson(self, example: Labelled, number: int) -> tuple[int, ...]:
        """The tokens of an output of the right form, and its end."""
        text = self.shows(example, number)
        ending = self.prompts[example.part].ending
        before, both = encode_plain(self.tokenizer, [ending, f"{ending} {text}"])
        joined = both[: len(before)] == before
        tokens = both[len(before) :] if joined else encode_plain(self.tokenizer, [f" {text}"])[0]
        return (*tokens, self.tokenizer.eos[0])

    def fitting(self, setting: str) -> tuple[list[Labelled], int]:
        """The examples whose prompts and copies are not too long, the others counted; and the longest prompt.

        Raises InputError if none is left.
        """
        examples, kept, longest = self.labels.examples, [], 0
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            for example, prompt in zip(some, self.encoded(some), strict=True):
                if len(prompt) > self.settings.prompt_tokens:
                    self.labels.left_out[f"longer than {setting}.prompt_tokens"] += 1
                elif len(self.lesson(example, 0)) > self.settings.tokens:
                    self.labels.left_out[f"whose output is longer than {setting}.tokens"] += 1
                else:
                    kept.append(example)
                    longest = max(longest, len(prompt))
        if not kept:
            raise InputError(f"every labelled text is too long: {self.labels._replace(examples=[]).told}")
        return kept, longest


def judge_task(context: Context, tokenizer: Tokenizer, opened: ExitStack) -> Task:
    """Prompts as those of a judge in use: its verdicts are the labels."""
    settings, asked = context.config.tuning.judge, context.config.judge
    prompts = {part: judge_prompt(asked, part) for part in settings.parts}
    verdicts = {part: prompt.verdicts for part, prompt in prompts.items()}
    labels = read_labels(settings.data, verdicts, "tuning.judge.data")

    def fill(example: Labelled) -> str:
        places = example.places
        if "prefix" in places:
            places["prefix"] = last_tokens(tokenizer, places["prefix"], asked.prefix_tokens)
        return prompts[example.part].fill(**places)

    def shows(example: Labelled, number: int) -> str:
        own = verdicts[example.part]
        return own[np.random.default_rng([context.config.seed, 2, number]).integers(len(own))]

    def grade(examples: Sequence[Labelled], outputs: Sequence[Sequence[str]]) -> list[list[grading.Graded]]:
        return [
            [grading.grade_verdict(example, output, verdicts[example.part]) for output in own]
            for example, own in zip(examples, outputs, strict=True)
        ]

    return Task(settings, labels, tokenizer, prompts, fill, shows, grade, grading.VERDICTS)


def rewriter_task(context: Context, tokenizer: Tokenizer, opened: ExitStack) -> Task:
    """A safe suffix is to be copied; the rewrite of an unsafe one is scored by the run's judge.

    `opened` closes the server that it may be.
    """
    settings, config = context.config.tuning.rewriter, context.config
    prompt = read_prompt("rewrite", config.rewriter.prompts, config.rewriter.prompt)
    labels = read_labels(settings.data, {"rewrite": tuple(SAFE.values())}, "tuning.rewriter.data")
    scored = any(example.label != SAFE[True] for example in labels.examples)
    worth = rewrite_worth(context, opened) if scored else lambda cases: []

    def fill(example: Labelled) -> str:
        prefix, suffix = example.texts
        return prompt.fill(prefix=prefix, words=last_words(prefix), suffix=suffix)

    def shows(example: Labelled, number: int) -> str:
        prefix, suffix = example.texts
        return f"{last_words(prefix).lstrip()}{suffix}"

    def cut(example: Labelled, rewrite: str) -> str:
        (tokens,) = encode_plain(tokenizer, [rewrite])
        limit = config.selfimprove.suffix
        return rewrite if len(tokens) <= limit else tokenizer.decode(tokens[:limit])

    def grade(examples: Sequence[Labelled], outputs: Sequence[Sequence[str]]) -> list[list[grading.Graded]]:
        return grading.grade_rewrites(examples, outputs, worth, cut)

    return Task(settings, labels, tokenizer, {"rewrite": prompt}, fill, shows, grade, grading.REWRITES)


TASKS = {"judge": judge_task, "rewriter": rewriter_task}


def rewrite_worth(context: Context, opened: ExitStack) -> grading.Worth:
    """The mean of the judge's parts by their weights: of quality and safety, (quality + safety) / 2."""
    settings = context.config.judge
    weights = {name: weight for name in PARTS if (weight := getattr(settings, name))}
    if "safety" not in weights:
        context.screen.warn(
            "tuning/rewriter: no part of the judge asks whether a rewrite is safe: give judge.safety"
        )
    improvement, total = Improvement(context, opened), sum(weights.values())

    def judge(cases: Sequence[Case]) -> Any:
        return asked_by(settings.server, lambda: improvement.full_judge(cases).scores, "judging rewrites")

    def worth(cases: Sequence[Case]) -> list[list[float | None]]:
        scores = judge(cases) if cases else []
        return [[None if score is None else score / total for score in own] for own in scores]

    return worth


def tune(context: Context, who: str) -> None:
    """A judge or a rewriter of the base model; it lies in checkpoints/tuning/<who>."""
    if not context.config.model_alone and not context.done(BASE):
        pretrain(context)
    if not context.done(stage := f"tuning/{who}"):
        with ExitStack() as opened, context.working(stage) as notes:
            notes |= learn(context, who, opened)


def learn(context: Context, who: str, opened: ExitStack) -> Notes:
    """Labelled texts, prompts; then batch after batch outputs, rewards, advantages, and steps on them."""
    stage = f"tuning/{who}"
    base = context.load(BASE)
    task = TASKS[who](context, base.tokenizer, opened)
    settings = task.settings
    examples, longest = task.fitting(stage.replace("/", "."))
    context.screen.say(f"{stage}: {task.labels._replace(examples=examples).told}")
    learned, held_out = split_labels(examples, settings.held_out)
    # Of what is to be rewritten no output is known.
    formed = [one for one in learned if one.part != "rewrite" or one.label == SAFE[True]]
    format_steps = settings.format_steps if formed else 0
    about = {
        "labelled texts": digest_labels(examples),
        "prompts": short_digest([[part, prompt.text] for part, prompt in task.prompts.items()]),
    }
    learner = Learner(
        context,
        stage,
        base,
        about,
        base.template,
        grpo_form=settings.grpo.form,
        rate=f"tuning.{who}.learning_rate",
        shown={"loss": "loss"},
        own_log=True,
    )
    state, progress = learner.resume()
    learner.policy.release()
    practice = practice_of(learner, task, formed, learned, format_steps, longest, progress)
    turns = practice.turns
    total = turns.steps(settings.updates)
    context.screen.say(
        f"{stage}: {settings.steps} steps of {settings.prompts} prompts, {settings.samples} outputs of each; "
        f"{len(learned):,} texts to learn, {len(held_out):,} held out"
    )
    with learner.session(state, progress, turns, total) as session:

        def is_to_measure() -> bool:
            """Whether what is held out is not measured yet, and its turn has come."""
            batch, every = turns.batch, settings.measure_every
            due = every and batch >= format_steps and (batch - format_steps) % every == 0
            due = due or turns.ended or batch in (0, format_steps)
            return bool(held_out and due) and batch not in [one["batch"] for one in turns.measured[-1:]]

        def measure() -> None:
            with session.untimed():
                policy = replace(learner.policy, params=session.params)
                result = measure_held_out(context, task, policy, held_out)
            turns.measured.append({"batch": turns.batch, "step": session.global_step} | result)
            session.log(grading.metrics_of(result["groups"]))
            context.screen.say(f"{stage}: held out, after step {session.global_step}: {result['told']}")

        hooks = [Hook(measure, when=is_to_measure), session.checkpoint]
        if is_to_measure():
            measure()
        lesson, trial = (
            Schedule(rate, total, 0.0, 1.0) for rate in (settings.format_rate, settings.learning_rate)
        )
        practice.go_on(session, lesson, trial, hooks, shown=0)
        done = session.finish()
    noted = {"lines": task.labels.lines, "left_out": dict(task.labels.left_out)}
    noted |= {"learned": len(learned), "held_out": len(held_out), "measured": turns.measured}
    keep_json(context.workdir / f"{stage}.json", noted)
    if turns.measured:
        first, last = turns.measured[0]["told"], turns.measured[-1]["told"]
        say(f"{who}, on texts held out: {last}; before: {first}")
    return learner.finish(session, done)


def practice_of(
    learner: Learner,
    task: Task,
    formed: Sequence[Labelled],
    learned: Sequence[Labelled],
    format_steps: int,
    longest: int,
    progress: Progress,
) -> Practice[Labelled]:
    """Outputs of the right form first, which are shown; then the policy's, with what they earn.

    `longest`: tokens of a prompt, at most.
    """
    settings, seed = task.settings, learner.context.config.seed

    def order(examples: Sequence[Labelled], steps: int, kind: int) -> list[Labelled]:
        turns = shuffled(steps * settings.prompts, len(examples), (seed, kind))
        return [examples[place] for _, place in turns]

    def show(examples: Sequence[Labelled], numbers: Sequence[int]) -> list[AnswerTree]:
        turns = zip(examples, numbers, task.encoded(examples), strict=True)
        return [
            AnswerTree(example.where, prompt, (Branch(task.lesson(example, number), "chosen"),))
            for example, number, prompt in turns
        ]

    def attempt(policy: Loaded, examples: Sequence[Labelled], numbers: Sequence[int]) -> list[Tried]:
        rollouts = write_outputs(learner.context, task, policy, examples, numbers)
        grades = task.grade(examples, texts_of(task, rollouts))
        every = zip(examples, task.encoded(examples), rollouts, grades, strict=True)
        return [
            Tried(example.where, prompt, [one.tokens for one in own], *zip(*graded, strict=True))
            for example, prompt, own, graded in every
        ]

    both = order(formed, format_steps, 1), order(learned, settings.steps, 0)
    return Practice(
        learner,
        Turns(*both, settings.prompts, lambda one: one.where, progress),
        settings.grpo,
        {"grpo": settings.grpo.coefficients},
        longest + settings.samples * settings.tokens,
        settings.grad_accum_steps,
        teach=show,
        attempt=attempt,
        what="output",
        outcomes=task.outcomes,
    )


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
    return policy.rollouts(
        task.encoded(examples),
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


def measure_held_out(
    context: Context, task: Task, policy: Loaded, held_out: Sequence[Labelled]
) -> dict[str, Any]:
    """What greedy outputs earn on what is held out, and some of them."""
    rollouts = write_outputs(context, task, policy, held_out, range(len(held_out)), best=True)
    texts = texts_of(task, rollouts)
    grades = [own[0] for own in task.grade(held_out, texts)]
    groups = grading.measured(held_out, grades)
    kept = [
        {"where": one.where, "label": one.label, "output": own[0], "outcome": graded.outcome}
        for one, own, graded in list(zip(held_out, texts, grades, strict=True))[:KEPT]
    ]
    return {"groups": groups, "told": grading.sentence(groups), "outputs": kept}
