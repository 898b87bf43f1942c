"""Whole documents in packed rows: every token once, in few rows, and the same batches from any state."""

import json
from collections import Counter

import jax
import numpy as np
import pytest
from helpers.models_and_trees import small_tokenizer

from pretrainrl_jax.config import DocumentsConfig, MeshConfig
from pretrainrl_jax.documents import packing
from pretrainrl_jax.documents.packing import Blocks
from pretrainrl_jax.documents.stream import Stream
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.training.feed import StreamFeed
from pretrainrl_jax.trees.tokenization import Tokenizer

LENGTH = 24
rng = np.random.default_rng(0)
TEXTS = [f"{n}" + "".join(rng.choice(list(" abe"), rng.integers(0, 70))) for n in range(150)]


@pytest.fixture(scope="module", params=[False, True], ids=["no BOS", "BOS"])
def tokenizer(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=request.param)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK", 12)
    monkeypatch.setattr(packing, "READ", 5)


def blocks(tokenizer: Tokenizer, rows: int = 4, epochs: int = 1) -> Blocks:
    settings = DocumentsConfig(shuffle=7, epochs=epochs)
    return Blocks(Stream(settings, 1, TEXTS), tokenizer, LENGTH, rows, seed=2)


def feed(tokenizer: Tokenizer, steps: int = 10**6, **options) -> StreamFeed:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return StreamFeed(blocks(tokenizer, epochs=options.pop("epochs", 1)), 4, mesh, steps, 2, **options)


def test_every_document_is_whole_and_ends_in_eos(tokenizer: Tokenizer) -> None:
    source, pieces, rows, used = blocks(tokenizer), {}, 0, 0
    while block := source.next():
        assert sorted(i for row in block.plan for i in row) == list(range(len(block.trees)))
        assert len(block.plan) <= 12
        for row in block.plan:
            taken = sum(block.trees[i].inputs for i in row)
            assert taken <= LENGTH
            rows, used = rows + 1, used + taken
        for tree in block.trees:
            name, _, place = tree.id.rpartition(":")
            pieces.setdefault(name, []).append((int(place), tree.branches[0].tokens))
    assert used > 0.85 * rows * LENGTH
    read = Counter()
    shared = 1 - len(tokenizer.start)
    for parts in pieces.values():
        tokens = [t for n, (_, part) in enumerate(sorted(parts)) for t in part[shared * (n > 0) :]]
        read[tuple(tokens)] += 1
    assert read == Counter((*tokenizer.encode(text), tokenizer.eos[0]) for text in TEXTS)


def batches_of(source: StreamFeed) -> list[list[bytes]]:
    return [[np.asarray(x).tobytes() for x in batch] for batch in source]


@pytest.mark.parametrize("epochs", [0, 1])
def test_batches_go_on_from_any_state(tokenizer: Tokenizer, epochs: int) -> None:
    steps = 40 if epochs == 0 else 10**6
    source = feed(tokenizer, steps, epochs=epochs)
    states, batches, names = [(0, source.state)], [], []
    for batch in source:
        batches.append([np.asarray(x).tobytes() for x in batch])
        names.append(source.names(source.row))
        states.append((source.row, json.loads(json.dumps(source.state))))
        if source.row % 8:
            assert source.ended == (len(batches) == steps)  # reads the next block, or does not
    assert source.ended
    assert len(batches) == 40 if epochs == 0 else len(batches) > 20
    assert all(name.startswith("made text ") for every in names for name in every)
    for number in [0, 1, 2, 3, 8, 20, len(batches)]:
        row, state = states[number]
        resumed = feed(tokenizer, steps, epochs=epochs, row=row, state=state)
        assert batches_of(resumed) == batches[number:]


def test_the_documents_of_the_last_batches_are_remembered(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, names = feed(tokenizer), {}
    for _ in every:
        names[every.row] = every.names(every.row)
    monkeypatch.setattr("pretrainrl_jax.training.feed.NAMED", 3)
    source = feed(tokenizer)
    for _ in source:
        pass
    last = sorted(names)[-3:]
    assert [row for row in sorted(names) if source.names(row)] == last
    assert [source.names(row) for row in last] == [names[row] for row in last]


def test_batches_are_counted_as_they_come(tokenizer: Tokenizer) -> None:
    counted = sum(block.batches for block in iter(blocks(tokenizer).next, None))
    assert counted == len(batches_of(feed(tokenizer)))
    assert len(batches_of(feed(tokenizer, 3))) == 3


def test_a_block_is_read_beside_the_batches_before_it(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all at once where the one before is over, while the devices wait."""
    monkeypatch.setattr(packing, "READ", 1)  # a block takes some seven
    read, reads = Blocks._read, []
    monkeypatch.setattr(Blocks, "_read", lambda self: (reads.append(1), read(self)))
    source, counts = feed(tokenizer, 39, epochs=0), []
    for _ in source:
        counts.append(len(reads))
        reads.clear()
    of_block = sum(counts[:36]) / 13  # three batches each, the first block before any batch
    assert of_block > 5
    assert max(counts[1:]) < 0.8 * of_block
    assert sum(counts[36:]) == 0  # nothing for a block that never comes
