"""`pretrain`: a base model by next-token training from scratch or continued."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp

from pretrainrl_jax.documents.packing import Blocks
from pretrainrl_jax.documents.rules import RULES
from pretrainrl_jax.documents.stream import Stream
from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import from_settings, in_training
from pretrainrl_jax.stages.context import BASE, Context, Notes
from pretrainrl_jax.stages.learner import Learner
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.feed import Feed, StreamFeed
from pretrainrl_jax.training.loading import Loaded, load, tokenizer_of
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.step import TrainState
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.records import digest
from pretrainrl_jax.trees.templates import Template, check_fits, documents
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree

TOKENIZED = 10_000  # documents of a stream that a tokenizer is trained on


@dataclass(frozen=True)
class Data:
    """What a base model is trained on."""

    said: str  # how much it is
    digest: str  # what checkpoints depend on
    steps: int
    feed: Callable[[Progress], Feed | StreamFeed]  # from where a training stands
    stream: Stream | None = None  # of the documents


def pretrain(context: Context) -> None:
    with context.working(BASE) as notes:
        notes |= base_model(context)


def base_model(context: Context) -> Notes:
    """Texts, tokenizer, model, rows, training, checkpoint."""
    config, settings = context.config, context.config.pretrain
    base = starting_point(context)
    on_documents = settings.text == "documents" and settings.epochs
    data = (of_documents if on_documents else of_corpus)(context, base.tokenizer)
    context.reset_stage(BASE)
    parameters = f"{sum(x.size for x in jax.tree.leaves(base.params)) / 1e6:.2f}M parameters"
    taken = f"{config.model.path} as it is" if config.model.path else "random weights"
    context.screen.say(f"pretrain: {data.said if data.steps else taken}, {parameters}")
    template = context.template(config.evaluate.template)
    if not data.steps:  # the model is taken as it is
        folder = context.checkpoint(BASE)
        checkpoints.describe(folder, base.model, base.tokenizer, template, base.origin)
        checkpoints.save(folder, TrainState(jnp.int32(0), base.params, ()))
        return {"device_seconds": 0.0}
    learner = Learner(
        context,
        BASE,
        base,
        {"data": data.digest},
        template,
        adapters=bool(config.model.path),  # a model that is made here has nothing to be kept
        rate="pretrain.learning_rate",
        shown={"loss": "loss", "gradient": "grad_norm"},
    )
    state, progress = learner.resume()
    schedule = Schedule(settings.learning_rate, data.steps, config.optimizer.warmup, config.optimizer.final)
    feed = data.feed(progress)
    with learner.session(state, progress, feed, data.steps) as session:
        for batch in feed:
            session.step(batch, {"ntp": {"answer": 1.0}}, schedule)
            for hook in session.due([session.checkpoint]):
                hook.run()
        done = session.finish()
    dropped = dict(data.stream.dropped) if data.stream else {}
    if session.global_step < data.steps:
        context.screen.say(f"pretrain: the documents ended after step {session.global_step} of {data.steps}")
    for rule, count in dropped.items():
        context.screen.say(f"pretrain: {count:,} times {rule}: what {RULES[rule]}")
    return learner.finish(session, done) | ({"dropped": dropped} if dropped else {})


def of_corpus(context: Context, tokenizer: Tokenizer) -> Data:
    """The texts about the facts of the run, as often as pretrain.epochs says."""
    settings, texts = context.config.pretrain, context.corpus.training
    seed, length, epochs = context.config.seed, settings.row_length, settings.epochs
    trees = documents(tokenizer, texts, length)
    rows = PackedRows(trees, length, seed, epochs, settings.rows, question=False, sequences=True)

    def name(tree: AnswerTree) -> str:
        return repr(tokenizer.decode(tree.branches[0].tokens)[:60])

    def feed(progress: Progress) -> Feed:
        return Feed(rows, context.mesh, settings.grad_accum_steps, progress.row, name)

    said = (
        f"{len(texts)} documents, {sum(tree.inputs for tree in trees)} tokens of {tokenizer.size}, "
        f"{rows.batches} steps, rows {rows.fill:.0%} full"
    )
    return Data(said, digest(trees), rows.batches, feed)


def of_documents(context: Context, tokenizer: Tokenizer) -> Data:
    """The stream of documents: pretrain.steps of it, or all of it where its passes are counted."""
    settings, seed, mesh = context.config.pretrain, context.config.seed, context.mesh

    def blocks() -> tuple[Blocks, Stream]:
        stream = context.stream()
        return Blocks(stream, tokenizer, settings.row_length, settings.rows, seed), stream

    steps = settings.steps
    if not steps:
        context.screen.say("pretrain: reads all documents once to count their steps")
        steps = sum(block.batches for block in iter(blocks()[0].next, None))  # all of it is read
    read, stream = blocks()

    def feed(progress: Progress) -> StreamFeed:
        at = progress.row, progress.stream
        return StreamFeed(read, settings.rows, mesh, steps, settings.grad_accum_steps, *at)

    sources = ", ".join(context.config.documents.path) or "texts made of the facts"
    return Data(f"documents of {sources}, {steps} steps", stream.identity, steps, feed, stream)


def starting_point(context: Context) -> Loaded:
    """What pretraining begins with, in float32; raises InputError for a vocabulary below the tokenizer's."""
    config = context.config
    if path := config.model.path:
        loaded = load(path, context.mesh, config.model.dtype, "float32", chosen=context.chosen)
        shape = in_training(loaded.model.shape, config.model)
        return replace(loaded, model=replace(loaded.model, shape=shape))
    tokenizer = own_tokenizer(context)
    model = Model(from_settings(config.model, tokenizer.size), context.mesh, **context.chosen._asdict())
    check_fits(tokenizer, model.shape.vocabulary, "model.vocabulary")
    initialise = jax.jit(model.init, out_shardings=parameter_shardings(model, context.mesh))
    return Loaded(model, initialise(jax.random.key(config.seed)), tokenizer, Template("bare"))


def own_tokenizer(context: Context) -> Tokenizer:
    """The tokenizer of a run: that of model.path or tokenizer.path, or one made for its texts."""
    config = context.config
    if config.model.path:
        return tokenizer_of(config.model.path)
    if config.tokenizer.path:
        return load_tokenizer(config.tokenizer.path)
    return trained_tokenizer(read_first(context), config.tokenizer.vocabulary)


def read_first(context: Context) -> Sequence[str]:
    """The texts that a base model reads, or of documents the first."""
    if context.config.pretrain.text == "documents":
        return [document.text for document in context.stream().take(TOKENIZED)]
    return context.corpus.training


def trained_tokenizer(texts: Sequence[str], size: int) -> Tokenizer:
    """A vocabulary of that size made for these texts, the same in every process."""

    def train() -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            save_tokenizer(train_tokenizer(texts, size), folder)
            return {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}

    with tempfile.TemporaryDirectory() as folder:
        for name, text in run_on_process_0(train, "training the tokenizer").items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return load_tokenizer(Path(folder))
