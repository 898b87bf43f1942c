"""`train` of an objective with rewards (RLVR): sample answers, see whether they are true, learn, again."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax

from pretrainrl_jax.config import GrpoConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining.fingerprint import fingerprint, short_digest
from pretrainrl_jax.model.decoder import Params
from pretrainrl_jax.stages.anchor import anchor_texts
from pretrainrl_jax.stages.budget import Cost, passes_of, passes_to_measure, seconds_a_question
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.ended import finish_training
from pretrainrl_jax.stages.rewarded import Group, answer, learned_tree, longest, told, with_logps
from pretrainrl_jax.stages.visits import Visits
from pretrainrl_jax.stages.watch import Watch
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.feed import place_trees, placed_batches
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Session, resume
from pretrainrl_jax.training.step import TrainState, compile_step, init_sharded_state
from pretrainrl_jax.trees.anchors import AnchorBatch, Anchored, AnchorRows, AnchorText, digest_anchors
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

IDK = "I don't know"
LESSON = {"ntp": {"answer": 1.0}}  # the loss by which it is taught


def reinforce(context: Context, system: str) -> None:
    """Base model, questions; then batch after batch samples, rewards, advantages, and steps on them."""
    config, settings, objective = context.config, context.config.train, context.config.objectives[system]
    how = objective.grpo
    began = time.perf_counter()
    base = context.load(BASE)
    texts = anchor_texts(context, base) if objective.anchored else []
    facts = context.asked(context.trained)
    asked = [worded for fact in facts for worded in context.worded(fact)]
    row_length = max(settings.row_length, longest(context, base, how, asked))
    if how.teach:
        check_sayable(system, how, lessons(context, base, facts[:1]))

    made_of = made_with(context, base, asked, texts)
    begun = context.learning(f"train/{system}", base)
    base, adapts = begun.plain, context.adapts(begun)
    run = context.run(
        f"train/{system}",
        made_of,
        rate=f"objectives.{system}.learning_rate",
        shown={"loss": "loss"},
        scored=config.evaluate.choose != "last",
        own_log=True,
        adapts=adapts,
    )
    template = context.template(settings.template)
    checkpoints.describe(run.folder, begun.model, base.tokenizer, template, base.origin, adapts)
    scales = settings.ntp_scale, context.mesh, settings.dpo_scale
    step = compile_step(context.in_training(begun.model), config.optimizer, *scales, how.form)
    anchored = {"anchor": objective.coefficients["anchor"]} if objective.anchored else {}

    def begin() -> TrainState:
        return init_sharded_state(begun.model, begun.params, config.optimizer, context.mesh)

    def visits_of(taught: float, passes: float, state: dict[str, Any]) -> Visits:
        return Visits(facts, context.training_seed, taught, passes, settings.questions, state, context.worded)

    def next_batch(visits: Visits, policy: Loaded) -> tuple[PackedBatch, list[Group]]:
        """The next lessons; or the next questions with answers that the policy gives, and what they earn."""
        teaches = visits.teaches
        numbers, of_batch = visits.take()
        groups = [] if teaches else answer(context, how, policy, of_batch, numbers)
        trees = lessons(context, base, of_batch) if teaches else [learned_tree(how, g) for g in groups]
        batch, visits.holds = place_trees(
            trees, context.mesh, row_length, visits.holds, settings.grad_accum_steps
        )
        return (batch if teaches else with_logps(context, how, base, policy, batch)), groups

    def seconds(teaches: bool) -> float:
        """Of a question that is taught, or answered."""
        enough = passes_to_measure(context, len(facts))
        visits = visits_of(enough, 0.0, {}) if teaches else visits_of(0.0, enough, {})
        anchors = anchors_beside(context, texts, visits)
        coefficients = LESSON | anchored if teaches else objective.coefficients
        numbers = coefficients, Schedule(0.0, len(visits.counts), 0.0, 0.0)

        def make(params: Params) -> PackedBatch | Anchored:
            batch, _ = next_batch(visits, replace(begun, params=params))
            return Anchored(batch, next(anchors)) if anchors else batch

        batches = ((count, make) for count in visits.counts)
        updates = 1 if teaches else how.updates
        return seconds_a_question(step, begin(), batches, numbers, context.mesh, updates, begun.frozen)

    def cost() -> Cost:
        taught = round(how.teach * len(facts))
        return Cost(len(facts) * seconds(False), first=taught * seconds(True) if taught else 0.0)

    passes = passes_of(context, run, cost)
    state, progress = resume(run, begin())
    if not how.kl:  # only its KL needs the base model beside the policy
        begun.release()

    visits = visits_of(how.teach, passes, progress.stream)
    visits.row = progress.row
    total = visits.steps(how.updates)
    schedule = Schedule(objective.learning_rate, total, config.optimizer.warmup, config.optimizer.final)
    context.screen.say(
        f"{run.stage}: {total} steps of {settings.questions} questions, each answered {how.samples} times"
        + (f"; {IDK!r} is taught {visits.taught} times first" if visits.taught else "")
    )
    anchors = anchors_beside(context, texts, visits)

    with Session(run, step, state, progress, visits, context.mesh, total, begun.frozen) as session:
        watch = Watch(context, session, begun)
        hooks = [session.checkpoint, watch.hook(lambda: visits.ended)]
        watch.begin(visits.ended)
        while not visits.ended:
            teaches = visits.teaches
            batch, groups = next_batch(visits, replace(begun, params=session.params))
            batch = Anchored(batch, next(anchors)) if anchors else batch
            coefficients = LESSON | anchored if teaches else objective.coefficients
            updates = range(1 if teaches else how.updates)
            metrics = [session.step(batch, coefficients, schedule) for _ in updates][-1]
            numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
            session.log(numbers | told(groups))
            for hook in session.due(hooks):
                hook.run()
        done = session.finish()
    finish_training(context, session, done, began, passes)


def made_with(
    context: Context, base: Loaded, asked: Sequence[Fact], texts: Sequence[AnchorText]
) -> dict[str, Any]:
    """Digests of what the answers and their rewards depend on, beside settings."""
    template = context.template(context.config.train.template)
    true = [[*fact.answers, *sorted(context.known_truths.get(fact.question, ()))] for fact in asked]
    digests = {
        "facts": fingerprint(base.model, base.params, base.tokenizer, template, asked, {}, base.identity),
        "what is true": short_digest(true),
    }
    return digests | ({"anchor text": digest_anchors(texts)} if texts else {})


def lessons(context: Context, base: Loaded, facts: Sequence[Fact]) -> list[AnswerTree]:
    """Questions with "I don't know" as the answer to learn."""
    template = context.template(context.config.train.template)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    encoded = encode_branches(base.tokenizer, template, prompts, [[IDK]] * len(facts))
    laid = zip(facts, encoded.prefixes, encoded.branches, strict=True)
    return [AnswerTree(fact.id, prefix, (Branch(idk, "chosen", IDK),)) for fact, prefix, (idk,) in laid]


def check_sayable(system: str, how: GrpoConfig, taught: Sequence[AnswerTree]) -> None:
    """Raise InputError if the answer that is taught is longer than any that is sampled."""
    needed = len(taught[0].branches[0].tokens)
    if needed > how.max_new_tokens:
        raise InputError(
            f"{IDK!r} takes {needed} tokens here, and answers may have {how.max_new_tokens}: raise "
            f"objectives.{system}.grpo.max_new_tokens"
        )


def anchors_beside(
    context: Context, texts: Sequence[AnchorText], visits: Visits
) -> Iterator[AnchorBatch] | None:
    """Anchor text for each of the batches that are left, on the devices."""
    settings, steps = context.config.anchor, context.config.train.grad_accum_steps
    if not texts:
        return None
    how_much = settings.length, settings.questions
    rows = AnchorRows(texts, *how_much, context.training_seed, visits.counts, steps)
    return placed_batches(rows, context.mesh, steps, visits.batch)
