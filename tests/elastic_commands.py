"""Commands on so many simulated devices, and what their updates were given and left.

Run as `python elastic_commands.py DEVICES FILE`, with the commands on standard input as JSON: it writes to
the file what each of them did.
"""

import hashlib
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tiny

from pretrainrl_jax.training import checkpoints, loop
from pretrainrl_jax.trees import dataset
from pretrainrl_jax.trees.rows import Rows


class Done(NamedTuple):
    """What one command did."""

    ran: tiny.Ran
    rows: list[str]  # digests of the batches that its updates were given, one after another
    params: dict[str, np.ndarray]  # as they lay on the devices when they were saved at last


@contextmanager
def noted(rows: list[list[str]], params: dict[str, np.ndarray]) -> Iterator[None]:
    """Note what is read of the rows, a list each time that reading begins, and the finished parameters."""
    batches, finish = dataset.Share.batches, checkpoints.Saver.finish

    def read(self: dataset.Share, first: int = 0) -> Iterator[Rows]:
        rows.append(own := [])
        for batch in batches(self, first):
            own.append(hashlib.sha256(b"".join(x.tobytes() for x in batch)).hexdigest())
            yield batch

    def saved(self: checkpoints.Saver, state: Any, *progress: Any) -> None:
        leaves = jax.tree.leaves_with_path(jax.device_get(state.params))
        params.update((jax.tree_util.keystr(path), leaf) for path, leaf in leaves)
        finish(self, state, *progress)

    dataset.Share.batches, checkpoints.Saver.finish = read, saved
    try:
        yield
    finally:
        dataset.Share.batches, checkpoints.Saver.finish = batches, finish


def done(words: Sequence[str], stop_after: int = 0) -> Done:
    """Run a command; a signal stops its pretraining after an update, where one is given."""
    rows: list[list[str]] = []
    params: dict[str, np.ndarray] = {}
    writer = loop.MetricsWriter
    tiny.Signalled.when = ("pretrain", stop_after)
    loop.MetricsWriter = tiny.Signalled
    try:
        with noted(rows, params):
            ran = tiny.call(*words)
    finally:
        loop.MetricsWriter = writer
    return Done(ran, rows[-1] if rows else [], params)


if __name__ == "__main__":
    devices, file = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    found = [tuple(done(*command)) for command in json.load(sys.stdin)]
    Path(file).write_bytes(pickle.dumps(found))
