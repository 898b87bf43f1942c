"""Which text the base model learned its facts from, and how often that states each of them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pretrainrl_jax.documents.packing import Blocks
from pretrainrl_jax.documents.stream import Document, Stream
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.corpus import shares
from pretrainrl_jax.knowledge.singletons import Counter, Counts, drawn_by, of_mentions
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.stages.context import Context, keep_json, kept_json
from pretrainrl_jax.trees.tokenization import Tokenizer

FILE = "statements.json"
TOGETHER = 256  # documents in which statements are looked for at a time


def count_statements(context: Context, tokenizer: Tokenizer) -> Counts | None:
    """Statements of the run's facts in the text that its base model learned from; None where nobody knows it.

    It is what evaluate.statements names, else what pretraining read: the training part of the corpus, or one
    pass over the documents, as far as `pretrain.steps` of the base model's `tokenizer` go. A stream is read
    once: what was counted is kept in the workdir.

    Raises InputError for files that cannot be read.
    """
    config, facts = context.config, context.facts
    if named := config.evaluate.statements:
        settings = replace(config.documents, path=named, weights=(), shuffle=0, epochs=1)
        try:
            return counted(context, Stream(settings, config.seed), "files")
        except InputError as error:
            raise InputError(str(error).replace("documents.path", "evaluate.statements")) from None
    if not config.pretrain.epochs:
        return None
    if config.pretrain.text == "documents":
        stream = context.stream(replace(config.documents, epochs=1))
        counts = counted(context, stream, "documents", records_read(context, tokenizer))
        return counts if config.documents.path else drawn_by(counts, facts, shares(facts, config.corpus))
    counts = of_mentions(facts, context.corpus.mentions, context.corpus.training)
    if config.pretrain.epochs < 1:
        part = f"Pretraining read {config.pretrain.epochs:.0%} of the sentences that were counted."
        counts = replace(counts, notes=(part,))
    return drawn_by(counts, facts, shares(facts, config.corpus))


def told_more(context: Context, system: str) -> bool:
    """Whether a system has learned from other text than what is counted."""
    config = context.config
    return system != "base" or bool(config.model.path and not config.evaluate.statements)


def records_read(context: Context, tokenizer: Tokenizer) -> int | None:
    """How many records of the stream pretraining has read; None for all."""
    settings, batches = context.config.pretrain, 0
    if not settings.steps:
        return None
    stream = context.stream()
    blocks = Blocks(stream, tokenizer, settings.row_length, settings.rows, context.config.seed)
    while batches < settings.steps and (block := blocks.next()):
        batches += block.batches
    return stream.state["number"]


def counted(context: Context, stream: Stream, source: str, limit: int | None = None) -> Counts:
    """The counts of a stream to its end, or of its first `limit` records; as kept, where they are these."""
    facts, path = context.facts, context.workdir / FILE
    told = [[f.id, f.question, f.paraphrase, f.answers, f.category, f.subject] for f in facts]
    made_with = short_digest([source, stream.identity, limit, asdict(context.config.documents), told])

    before = kept_json(path)
    if isinstance(before, dict) and before.get("made_with") == made_with:
        return Counts(source, *before["counts"])
    counter = Counter(facts)

    def work(documents: Sequence[Document]) -> list[tuple[Any, str]]:
        return [([len(document.text), *counter.find(document.text)], "") for document in documents]

    context.screen.say(f"evaluate: counts statements in {source} ({FILE} keeps them)")
    number = 0
    while not stream.ended and (limit is None or number < limit):
        for made in stream.make(TOGETHER if limit is None else min(TOGETHER, limit - number), work):
            counter.add(*made.value)
        number = stream.state["number"]
    counts = counter.counts(source)
    found = counts.occurrences, counts.texts, counts.characters, counts.false, counts.unknown
    keep_json(path, {"made_with": made_with, "counts": found})
    return counts
