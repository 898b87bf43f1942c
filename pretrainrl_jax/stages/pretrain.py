"""`pretrain`: a base model by next-token training on the corpus, from scratch or continued."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import from_settings
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.depends import settings_of
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Run, Session, resume
from pretrainrl_jax.training.step import TrainState, compile_step, init_sharded_state
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.records import digest
from pretrainrl_jax.trees.templates import Template, check_fits, documents
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer


def pretrain(context: Context) -> None:
    """Corpus, tokenizer, model, rows, training, checkpoint."""
    config, settings = context.config, context.config.pretrain
    began = time.perf_counter()
    corpus = context.corpus
    base = starting_point(context, corpus.training)
    model, params, tokenizer = base.model, base.params, base.tokenizer
    trees = documents(tokenizer, corpus.training, settings.row_length)
    source = PackedRows(
        trees, settings.row_length, config.seed, settings.epochs, settings.rows, question=False
    )
    context.reset_stage(BASE)
    tokens = sum(tree.inputs for tree in trees)
    parameters = f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.2f}M parameters"
    if source.batches:
        context.screen.say(
            f"pretrain: {len(corpus.training)} documents, {tokens} tokens of {tokenizer.size}, {parameters}, "
            f"{source.batches} steps, rows {source.fill:.0%} full"
        )
    else:
        taken = f"{config.model.path} as it is" if config.model.path else "random weights"
        context.screen.say(f"pretrain: {taken}, {parameters}")
    template = context.template(config.evaluate.template)
    checkpoints.describe(context.checkpoint(BASE), model, tokenizer, template, base.origin)
    if not source.batches:  # the model is taken as it is
        checkpoints.save(context.checkpoint(BASE), TrainState(jnp.int32(0), params, ()))
        context.finish(BASE, device_seconds=0.0, seconds=time.perf_counter() - began)
        return
    step = compile_step(model, config.optimizer, "token", context.mesh)
    run = Run(
        context.workdir,
        BASE,
        config.checkpoint,
        skip_nonfinite=config.optimizer.nonfinite == "skip",
        about=settings_of(config, BASE) | {"data": digest(trees)},
        rate="pretrain.learning_rate",
        shown={"loss": "loss", "gradient": "grad_norm"},
        screen=context.screen,
        command=context.command,
        profile=config.profile_steps,
    )
    state, progress = resume(run, init_sharded_state(model, params, config.optimizer, context.mesh))
    schedule = Schedule(
        settings.learning_rate, source.batches, config.optimizer.warmup, config.optimizer.final
    )
    feed = Feed(
        source,
        context.mesh,
        settings.grad_accum_steps,
        progress.row,
        lambda tree: repr(tokenizer.decode(tree.branches[0].tokens)[:60]),
    )
    with Session(run, step, state, progress, feed, context.mesh, source.batches) as session:
        for batch in feed:
            session.step(batch, {"ntp": {"answer": 1.0}}, schedule)
            for hook in session.due([session.checkpoint]):
                hook.run()
        done = session.finish()
    context.finish(
        BASE,
        device_seconds=done.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=session.global_step,
        skipped=done.skipped,
    )


def starting_point(context: Context, texts: Sequence[str]) -> Loaded:
    """What pretraining begins with, in float32; raises InputError for a vocabulary below the tokenizer's."""
    config = context.config
    if path := config.model.path:
        loaded = load(path, context.mesh, config.model.dtype, "float32", kernel=context.kernel)
        shape = replace(loaded.model.shape, remat=config.model.remat)
        return replace(loaded, model=replace(loaded.model, shape=shape))
    if config.tokenizer.path:
        tokenizer = load_tokenizer(config.tokenizer.path)
    else:
        tokenizer = trained_tokenizer(texts, config.tokenizer.vocabulary)
    model = Model(from_settings(config.model, tokenizer.size), context.mesh, context.kernel)
    check_fits(tokenizer, model.shape.vocabulary, "model.vocabulary")
    initialise = jax.jit(model.init, out_shardings=parameter_shardings(model, context.mesh))
    return Loaded(model, initialise(jax.random.key(config.seed)), tokenizer, Template("bare"))


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
