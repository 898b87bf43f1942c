"""Anchor text: what the base model writes, or a file's text, with the base's probabilities at each token.

It is made once and stored beside the mined trees, so that no reference model is resident in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.decoding.best_tokens import best_tokens, block_for
from pretrainrl_jax.evaluation.texts import paragraphs
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.fingerprint import made_by, short_digest
from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import constrain, round_up_rows
from pretrainrl_jax.model.partitioning import place_rows, results
from pretrainrl_jax.model.vocabulary import REPLICATED, ROWS, TABLE, MeshAxes
from pretrainrl_jax.objectives.bucketed import bucket_logps
from pretrainrl_jax.objectives.scoring import anchor_states
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.pretrain import read_first
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.anchors import AnchorBatch, AnchorText, pack_anchors, read_anchors, write_anchors
from pretrainrl_jax.trees.packing import plan
from pretrainrl_jax.workdir import anchor_file

STAGE = "anchor"
MEASURED_ROWS = 8  # measured at a time, rounded up to what divides over the devices


def anchor_texts(context: Context, base: Loaded) -> list[AnchorText]:
    """The run's anchor text, made where it is not there yet, or of another model or file."""
    path, settings = anchor_file(context.workdir), context.config.anchor
    made_with = _made_with(context, base)
    made = context.finished().get(STAGE)
    there = run_on_process_0(path.is_file, f"reading {path.name}")
    if not made or not there or made.get("made_with", made_with) != made_with:
        if made and there:
            context.screen.say("anchor: the text there is of another model or file, and made again")
        with context.working(STAGE) as notes:
            written = from_file(context, base) if settings.path else sampled(context, base)
            texts = measured(context, base, written)
            run_on_process_0(partial(write_anchors, path, texts), f"writing {path.name}")
            tokens = sum(len(text.reads) for text in texts)
            different = len({text.tokens for text in texts})
            context.screen.say(f"anchor: {len(texts)} texts, {different} different ones, {tokens:,} tokens")
            if 2 * different < len(texts):
                context.screen.warn(
                    "anchor: most of this text is the same over and over, and holds the model in little "
                    "else: give a file of text by anchor.path"
                )
            notes |= {"texts": len(texts), "tokens": tokens, "made_with": made_with}
    return read_anchors(path)


def _made_with(context: Context, base: Loaded) -> dict[str, Any]:
    """Digests of what the text depends on."""
    settings = context.config.anchor
    told = asdict(settings) | {"questions": None, "batch": None, "seed": context.config.seed}
    if settings.path:
        told |= {"path": None, "text": paragraphs(settings.path, "anchor.path")}
    return made_by(base.model, base.params, base.tokenizer) | {"text": short_digest(told)}


def beginnings(context: Context, base: Loaded) -> list[int]:
    """The tokens that texts begin after in turn, context and no target: BOS, or EOS where there is none.

    What was pretrained here without a BOS read no text after an EOS, and says anything there. Its texts begin
    as those that it read, with their first tokens.
    """
    if base.tokenizer.bos is not None:
        return [base.tokenizer.bos]
    if not began_bare(context, base):
        return [base.tokenizer.eos[0]]
    firsts = [ids[0] for ids in base.tokenizer.encode_all(read_first(context)) if ids]
    order = np.random.default_rng(context.config.seed).permutation(len(firsts))
    return [firsts[i] for i in order]


def began_bare(context: Context, base: Loaded) -> bool:
    """Whether the texts that the model was pretrained on began with nothing before them."""
    return base.tokenizer.bos is None and not context.config.model.path


def sampled(context: Context, base: Loaded) -> list[tuple[int, ...]]:
    """Texts that the base model writes after nothing, until they have anchor.tokens of its tokens.

    An EOS that ends one is its last token.
    """
    settings, starts = context.config.anchor, beginnings(context, base)
    texts: list[tuple[int, ...]] = []
    left = settings.tokens
    with context.screen.track("anchor/texts", settings.tokens, "tokens") as bar:
        while left > 0:
            # So many are needed in any case: no batch of them waits for the one before.
            needed = left // settings.length // settings.batch * settings.batch
            numbers = range(len(texts), len(texts) + max(needed, settings.batch))
            prefixes = [(starts[number % len(starts)],) for number in numbers]
            rollouts = base.rollouts(
                prefixes,
                samples=1,
                max_new_tokens=settings.length,
                temperature=settings.temperature,
                top_p=1.0,
                seed=context.config.seed,
                batch=settings.batch,
                numbers=numbers,
                shortest=1,
            )
            before = left
            for prefix, (rollout,) in zip(prefixes, rollouts, strict=True):
                if left > 0:
                    texts.append((*prefix, *rollout.tokens))
                    left -= len(rollout.tokens)
            bar.advance(before - max(0, left))
    return texts


def from_file(context: Context, base: Loaded) -> list[tuple[int, ...]]:
    """The texts of anchor.path, each with its EOS, those that are longer than a row in pieces."""
    settings, tokenizer = context.config.anchor, base.tokenizer
    tokens = tokenizer.encode_all(paragraphs(settings.path, "anchor.path"))
    before = [] if began_bare(context, base) else beginnings(context, base)
    shared = 1 - len(before)  # without a context the last token of a piece is the next one's
    return [
        (*before, *ended[start : start + settings.length + shared])
        for ended in ((*ids, tokenizer.eos[0]) for ids in tokens if ids)
        for start in range(0, len(ended) - shared, settings.length)
    ]


def measured(context: Context, base: Loaded, written: Sequence[tuple[int, ...]]) -> list[AnchorText]:
    """The texts with the base's most probable next tokens, and what it gives them and all others."""
    settings = context.config.anchor
    top = min(settings.top, base.model.shape.vocabulary)
    texts = [AnchorText(tokens) for tokens in written]
    planned = plan([len(text.reads) for text in texts], settings.length)
    rows = round_up_rows(base.model.mesh, MEASURED_ROWS)
    parts = [planned[at : at + rows] for at in range(0, len(planned), rows)]

    def begun(part: Sequence[Sequence[int]]) -> tuple[jax.Array, ...]:
        filled = [[texts[i] for i in row] for row in part] + [[]] * (rows - len(part))
        batch = pack_anchors(filled, settings.length, 0)
        placed = AnchorBatch(*(place_rows(x, base.model.mesh) for x in batch))
        return measure(base.model, top, base.params, placed)

    found: dict[int, AnchorText] = {}
    with context.screen.track("anchor/probabilities", len(texts), "texts") as bar:
        started = ((part, begun(part)) for part in parts)
        for part, arrays in results(started, "the probabilities of anchor text"):
            arrays = [np.asarray(x) for x in arrays]
            for row, members in enumerate(part):
                at = 0
                for i in members:
                    span = np.s_[row, at : at + len(texts[i].reads)]
                    found[i] = AnchorText(texts[i].tokens, *(x[span] for x in arrays))
                    at += len(texts[i].reads)
            bar.advance(sum(map(len, part)))
    return [found[i] for i in range(len(texts))]


@partial(jax.jit, static_argnums=(0, 1))
def measure(
    model: Model, top: int, params: Params, anchors: AnchorBatch
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """After each token read the most probable next ones, their log-probabilities, and that of all others.

    int32 and float32 [rows, time, top], and float32 [rows, time], on every device; nats. They are computed
    as training computes them, so that at the base model the two are equal.
    """
    hidden = anchor_states(model, params, anchors)
    head = model.head(params).astype(hidden.dtype)
    none = jnp.zeros(model.shape.vocabulary, bool)  # no token is kept apart

    def per_shard(axes: MeshAxes, *arrays: jax.Array) -> jax.Array:
        hidden, head, none = arrays
        return best_tokens(axes, hidden, head, none, top, block=block_for(model.layout.platform)).tokens

    find = vocabulary.maybe_shard_map(model.layout, per_shard, (ROWS, TABLE, REPLICATED), ROWS)
    tokens = find(hidden, head, none)
    logps, rest = bucket_logps(hidden, head, tokens, layout=model.layout)
    whole: Callable[[jax.Array], jax.Array] = partial(constrain, layout=model.layout)
    return whole(tokens), whole(logps), whole(rest)
