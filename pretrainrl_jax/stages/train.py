"""`train`: each objective on the mined trees, every one from the same base model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.config.stored import section_as_now
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.fingerprint import PROBES, TOLERANCE, differences, probe_difference, probes
from pretrainrl_jax.mining.rounds import spans
from pretrainrl_jax.objectives.loss import asks
from pretrainrl_jax.stages import budget
from pretrainrl_jax.stages.anchor import anchor_texts
from pretrainrl_jax.stages.context import BASE, Context, Notes, read_json
from pretrainrl_jax.stages.learner import Learner, learner_of
from pretrainrl_jax.stages.material import material
from pretrainrl_jax.stages.mine import mine_negatives
from pretrainrl_jax.stages.reinforce import reinforce
from pretrainrl_jax.stages.shards import with_references
from pretrainrl_jax.stages.watch import watch
from pretrainrl_jax.storage import remove_tree
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Hook, Session
from pretrainrl_jax.trees.anchors import AnchorRows, AnchorText, digest_anchors
from pretrainrl_jax.trees.dataset import PackedRows, one_of_each
from pretrainrl_jax.trees.packing import bound
from pretrainrl_jax.trees.records import digest, read_trees, refuse_unscored, write_trees
from pretrainrl_jax.trees.tree import AnswerTree, chosen_only
from pretrainrl_jax.version import check_format

# What each line of metrics.jsonl has, whatever the objective: null where none of its terms computes it.
CARRIES = ("loss_dpo", "loss_ntp", "reward_margin", "logp_gold", "logp_negative")


def train(context: Context) -> None:
    """Every system of `train.systems` that is not finished yet."""
    for system in context.config.train.systems:
        if not context.done(stage := f"train/{system}"):
            learn = reinforce if context.config.objectives[system].reinforced else train_system
            with context.working(stage) as notes:
                notes |= learn(context, system)


def train_system(context: Context, system: str) -> Notes:
    """Base model, trees, rows; then batch after batch a step, and what is to be done between steps."""
    settings, objective = context.config.train, context.config.objectives[system]
    base = context.load(BASE)
    trees = read_mined(context, base)
    if objective.contrasts:
        refuse_unscored(trees)
    else:  # what an objective ignores is dropped before packing: it would only be computed for nothing
        trees = [chosen_only(tree) for tree in trees]
    texts = anchor_texts(context, base) if objective.anchored else []
    data = {"data": digest(trees)} | ({"anchor text": digest_anchors(texts)} if texts else {})
    shown = {"true": "logp_gold"}  # log-probabilities: one is to rise, the other to fall
    shown |= {"false": "logp_negative"} if objective.contrasts else {"loss": "loss"}
    learner = learner_of(context, system, base, data, shown=shown, carries=CARRIES)
    policy, stage = learner.policy, learner.run.stage

    passes = budget.passes_of(learner, lambda: cost_of(learner, system, trees, texts))
    state, progress = learner.resume()
    policy.release()  # no reference model is kept while training, but what it shares with the policy
    if not int(state.step):  # what an earlier training of this system mined is of another policy
        old = round_path(context, system, 1).parent
        run_on_process_0(lambda: remove_tree(old), f"beginning {stage}")

    rounds = Rounds(context, objective, trees, passes, texts)
    questions = len(one_of_each(trees))
    context.screen.say(
        f"{stage}: {rounds.total} steps of {rounds.rows.rows} rows, "
        f"{questions * passes / rounds.total:.1f} questions each, rows {rounds.rows.fill:.0%} full"
    )
    while rounds.more and int(state.step) >= rounds.end and was_mined(context, system, rounds.number + 1):
        rounds.turn(read_trees(round_path(context, system, rounds.number + 1)))
    row = progress.row if int(state.step) > rounds.done else 0
    name_of = material(context).name_of(context)
    feed = Feed(rounds.rows, context.mesh, settings.grad_accum_steps, row, name_of, rounds.anchors)
    with learner.session(state, progress, feed, rounds.total) as session:

        def round_ended() -> bool:
            return feed.ended and rounds.more

        def remine_round() -> None:
            session.save()  # mining may be interrupted
            with session.paused():
                rounds.turn(remine(context, session, policy, rounds))
            feed.refill(rounds.rows, anchors=rounds.anchors)
            session.total_steps = rounds.total

        looks = watch(context, session, policy, lambda: feed.ended and not rounds.more)
        hooks = [session.checkpoint, looks, Hook(remine_round, when=round_ended)]
        if round_ended():
            remine_round()
        for batch in feed:
            session.step(batch, objective.coefficients, rounds.schedule)
            for hook in session.due(hooks):
                hook.run()
        done = session.finish()
    return learner.finish(session, done) | {"passes": passes}


def cost_of(
    learner: Learner, system: str, trees: Sequence[AnswerTree], texts: Sequence[AnchorText]
) -> budget.Cost:
    """What training takes, by some batches and, where falsehoods are mined again, some questions."""
    context = learner.context
    objective, questions = context.config.objectives[system], len(one_of_each(trees))
    enough = budget.passes_to_measure(learner, questions)
    first = Rounds(context, objective, trees, enough, texts)
    feed = Feed(first.rows, context.mesh, context.config.train.grad_accum_steps, anchors=first.anchors)
    batches = zip(first.rows.questions, (lambda _, batch=batch: batch for batch in feed), strict=True)
    numbers = objective.coefficients, first.schedule
    a_question = budget.seconds_a_question(learner, batches, numbers)
    if not objective.remines:
        return budget.Cost(questions * a_question)
    mining = budget.seconds_of_mining(learner)
    between = objective.remine_every * enough / first.total
    return budget.Cost(questions * a_question, mining=mining, passes_between=between)


class Rounds:
    """The rows of one round after another: each but the first is of trees that were mined on the way.

    All rounds' rows have one capacity, so that the compiled step serves them too.
    """

    def __init__(
        self,
        context: Context,
        objective: ObjectiveConfig,
        trees: Sequence[AnswerTree],
        passes: float,
        texts: Sequence[AnchorText] = (),
    ) -> None:
        rows = pack(context, trees, passes, asks(objective.coefficients))
        self._context, self._objective, self._texts = context, objective, texts
        self._passes, self._spans = passes, spans(objective, len(rows.trees), passes, rows.batches)
        self.number = self.done = 0  # this round, and the steps before it
        self.anchors: AnchorRows | None = None
        if self.more:
            most = bound(trees, rows.row_length, context.config.mine.negatives, rows.layout, rows.question)
            rows = replace(rows, passes=self._spans[0].stop, holds=most)
        self._begin(rows)

    def _begin(self, rows: PackedRows) -> None:
        self.rows, span, config = rows, self._spans[self.number], self._context.config
        if self._texts:
            self.anchors = AnchorRows(
                self._texts,
                config.anchor.length,
                config.anchor.questions,
                self._context.training_seed,
                rows.questions,
                config.train.grad_accum_steps,
                start=round(span.start * len(rows.trees)),
                held=self.anchors.rows if self.anchors else 0,
            )
        self.end = self.done + rows.batches  # steps after this round
        # Later rounds' rows are not known yet: as many steps a question as in this one.
        rest = max(1, round(rows.batches * (self._passes - span.start) / (span.stop - span.start)))
        self.total, optimizer = self.done + rest, config.optimizer
        rate = self._objective.learning_rate
        self.schedule = Schedule(rate, self.total, optimizer.warmup, optimizer.final)

    @property
    def more(self) -> bool:
        return self.number + 1 < len(self._spans)

    def turn(self, trees: Sequence[AnswerTree]) -> None:
        self.number, self.done = self.number + 1, self.end
        span = self._spans[self.number]
        visit = material(self._context).visit(self._context, trees)
        rows = replace(self.rows, trees=one_of_each(trees), visit=visit)
        self._begin(replace(rows, start=span.start, passes=span.stop))


def pack(context: Context, trees: Sequence[AnswerTree], passes: float, question: bool) -> PackedRows:
    """The rows of all passes, cut into batches of about `train.questions` questions."""
    settings, multiple = context.config.train, context.config.train.grad_accum_steps
    questions = one_of_each(trees)
    source = PackedRows(
        questions,
        settings.row_length,
        context.training_seed,
        max(passes, 1 / len(questions)),  # one question at least
        multiple,
        material(context).visit(context, trees),
        settings.layout,
        question,
    )
    rows = settings.questions * len(source.plan) / (len(questions) * source.passes)
    return replace(source, rows=max(1, round(rows / multiple)) * multiple)


def read_mined(context: Context, base: Loaded) -> list[AnswerTree]:
    """The mined trees; raises InputError if they are not of this model, these facts and these settings."""
    folder = context.workdir / "mined"
    trees = read_trees(folder / "trees.array_record")
    stamp = folder / "fingerprint.json"
    if (mined := read_json(stamp)) is None:
        raise InputError(f"{folder} does not say what it was mined with: run `mine` with this workdir again")
    check_format(stamp, mined)
    made_with = mined["made_with"]
    if "mining settings" in made_with:
        made_with["mining settings"] = section_as_now("mine", made_with["mining settings"])
    config, of = context.config, material(context)
    differ = differences(made_with, of.made_with(context, base))
    if not differ:
        scores = context.score(base, trees[:PROBES], config.train.row_length)
        nats = probe_difference(mined["probes"], probes(with_references(trees[:PROBES], scores)))
        if not nats <= TOLERANCE[config.model.dtype]:
            differ = [f"log-probabilities computed again are {nats:.2g} nats away"]
    if not differ and (true := of.known_true(context, trees)):
        differ = [f"{len(true)} of them are known to be true now, as {true[0]}"]
    if differ:
        raise InputError(
            f"the trees in {folder} are of something else: {'; '.join(differ)}. "
            "Run `mine` with this workdir again"
        )
    return trees


def round_path(context: Context, system: str, number: int) -> Path:
    """The trees of a later round, from 1."""
    return context.workdir / "mined" / system / f"round{number}.array_record"


def was_mined(context: Context, system: str, number: int) -> bool:
    """Whether an earlier run has mined the trees of a later round to the end."""
    path = round_path(context, system, number)

    def mined() -> bool:
        if path.is_file():
            remove_tree(path.with_suffix(".parts"))
        return path.is_file()

    return run_on_process_0(mined, f"reading {path.name}")


def remine(context: Context, session: Session, begun: Loaded, rounds: Rounds) -> list[AnswerTree]:
    """The trees of the next round: the current policy's own falsehoods, gold answers scored anew.

    References are the base model's, read again, used and freed (or the policy's without its adapters), or
    (renewed) the current policy's for every branch, gold included, as in iterative RPO (arXiv 2404.19733).
    An interrupted run goes on from its parts. `begun` is the policy as it began.
    """
    system = session.run.stage.removeprefix("train/")
    path = round_path(context, system, rounds.number + 1)
    parts = path.with_suffix(".parts")
    policy = replace(begun, params=session.params)
    adapted = policy.model.shape.lora is not None
    renewed = context.config.objectives[system].reference == "renewed"
    kept = {tree.id for tree in rounds.rows.trees}
    facts = [fact for fact in context.asked if fact.id in kept]
    reference = policy if renewed else policy.plain if adapted else context.load(BASE)
    mined = mine_negatives(context, policy, reference, facts, parts, session.run.stage)
    if not renewed and not adapted:
        reference.release()
    before, now = (
        {(tree.id, b.text) for tree in trees for b in tree.branches if b.role == "rejected"}
        for trees in (rounds.rows.trees, mined.trees)
    )
    context.screen.say(
        f"{session.run.stage}: mined again after step {session.global_step}: {len(now)} negatives, "
        f"{len(now - before) / max(1, len(now)):.0%} of them new"
    )

    def write() -> None:
        write_json(path.with_suffix(".json"), mined.statistics)
        write_trees(path, mined.trees)
        remove_tree(parts)

    run_on_process_0(write, f"writing {path.name}")
    return mined.trees
