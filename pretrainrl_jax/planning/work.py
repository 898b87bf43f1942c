"""What a program does on one chip: products, memory traffic, what is sent; by hand, from a model's shape.

The compiled program says the same more exactly (`planning.program`). By hand it is known without a compiler:
of GPUs, of other people's published runs, and of the many meshes that a search looks at.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.model.shape import ModelShape

BFLOAT16, FLOAT32 = 2, 4  # bytes
STREAMS = 14  # arrays [tokens, d_model] that a layer's norms, rotation and sums read and write, forward
GATES = 5  # arrays [tokens, d_ff] that its gated MLP reads and writes, forward
CHOICES = 10  # arrays [choices, d_model] that a mixture sorts, masks, multiplies and sorts back, forward


class Operation(NamedTuple):
    """Something computed `times` times in a row; figures of once."""

    flops: float
    bytes: float  # of main memory, read and written
    times: float = 1.0
    name: str = ""
    head_dim: int = 0  # of an attention kernel; 0 of everything else
    kernel: bool = False  # a compiled program's text does not tell these products


class Sent(NamedTuple):
    """A collective done `times` times; figures of once."""

    kind: str  # all-gather, reduce-scatter, all-reduce, all-to-all, collective-permute
    bytes: float  # of the whole array: what a chip has after an all-gather, or before a reduce-scatter
    group: int  # chips that take part
    times: float = 1.0
    name: str = ""
    waited: bool = False  # the next operation needs it: a tensor axis's sums, an expert axis's tokens
    stride: int = 1  # from a chip of the group to its next one, as they are numbered

    @property
    def crossing(self) -> float:
        """Bytes that a chip sends, with the best algorithm of a ring."""
        share = (self.group - 1) / self.group
        return {"all-reduce": 2.0 * share, "all-to-all": share / 2, "collective-permute": 1.0}.get(
            self.kind, share
        ) * self.bytes


class Work(NamedTuple):
    """All that a chip does in one execution of a program."""

    operations: tuple[Operation, ...]
    sent: tuple[Sent, ...]

    @property
    def flops(self) -> float:
        """Of matrix products."""
        return sum(op.flops * op.times for op in self.operations)

    @property
    def bytes(self) -> float:
        """Of main memory."""
        return sum(op.bytes * op.times for op in self.operations)

    @property
    def crossing(self) -> float:
        """Bytes that a chip sends."""
        return sum(sent.crossing * sent.times for sent in self.sent)


def work_of(operations: Iterable[Operation], sent: Iterable[Sent]) -> Work:
    """All of these; along an axis of one chip nothing is sent."""
    return Work(tuple(operations), tuple(one for one in sent if one.group > 1))


def together(*works: Work) -> Work:
    """All of them, one after another."""
    return Work(
        tuple(op for work in works for op in work.operations),
        tuple(one for work in works for one in work.sent),
    )


def along_fsdp(cut: Cut, kind: str) -> "partial[Sent]":
    """Makes what chips that share parameters send each other, of its bytes, times and name."""
    return partial(Sent, kind, group=cut.fsdp, stride=cut.expert * cut.tensor)


class Again(NamedTuple):
    """Shares of a layer's forward pass that the backward pass does again."""

    products: float = 0.0
    attention: float = 0.0  # beside the scores, which a flash kernel computes again in any case


def choices_of(shape: ModelShape, cut: Cut) -> int:
    """Rows of a chip's MLPs for each of its tokens: a mixture's are the choices of its whole group."""
    return shape.experts_per_token * cut.expert or 1


def exchanged(
    shape: ModelShape, cut: Cut, tokens: float, gathered: float, scattered: float
) -> tuple[Sent, ...]:
    """What goes along the expert axis: a group's tokens to each of its chips, and the sums of theirs back.

    `tokens` are those of a chip, times the bytes of a number; `gathered` and `scattered` say how often.
    """
    states = tokens * shape.d_model * cut.expert
    return tuple(
        Sent(kind, states, cut.expert, times, "experts' tokens", waited=True, stride=cut.tensor)
        for kind, times in (("all-gather", gathered), ("reduce-scatter", scattered))
    )


def training_work(
    shape: ModelShape,
    cut: Cut,
    tokens: float,
    visible: float,
    sources: float,
    again: Again,
    *,
    microsteps: int = 1,
    item: int = BFLOAT16,
    flash: bool = True,
    traffic: Mapping[str, float] = MappingProxyType({}),
    gated: bool = True,
    parallel: bool = False,
) -> Work:
    """One update. Experts are taken to be chosen equally often.

    Args:
        shape: of the model.
        cut: over chips.
        tokens: that a chip reads in a microstep, padding included.
        visible: positions that attention computes for a token: of a causal row half of it.
        sources: hidden states of a chip that meet the vocabulary, a microstep.
        again: what is recomputed.
        microsteps: of the update.
        item: bytes of a number in the compute dtype.
        flash: whether a kernel computes attention.
        traffic: bytes of main memory of operations by name, beside what activations and the update take.
        gated: whether the MLP has a gate.
        parallel: whether attention and MLP read the same norm and are summed at once, as in GPT-J.
    """
    s, tensor = shape, cut.tensor
    mlp = (3 if gated else 2) * s.d_model * s.d_ff
    beside = s.d_model * s.experts if s.experts else mlp  # attention's: a router, or the MLP
    matrices = (s.d_model * 2 * (s.heads + s.kv_heads) * s.head_dim + beside) / tensor
    experts = mlp * s.experts / cut.expert / tensor
    weights = matrices + experts
    lora = s.lora is not None  # then weights have no gradient, and their adapters next to nothing
    passes = (2 if lora else 3) + again.products  # forward, and twice as much backward
    streams, gates = (STREAMS / 2 if parallel else STREAMS), (GATES if gated else 3)
    choices = choices_of(s, cut)
    sorting = CHOICES * choices * s.d_model if s.experts else 0
    activations = BFLOAT16 * tokens * (streams * s.d_model + gates * choices * s.d_ff / tensor + sorting)
    attention = 4 * visible * s.heads * s.head_dim / tensor * tokens
    of_layers = float(s.layers * microsteps)
    head = 2 * s.vocabulary / tensor * s.d_model * sources
    tables = s.vocabulary * s.d_model * (1 if s.tied else 2) / tensor
    held = (s.layers * weights + tables) / cut.fsdp
    not_experts = held - s.layers * experts / cut.fsdp
    if lora:
        held = parameters(s, cut.expert).adapters / tensor / cut.fsdp
    operations = [
        Operation(2 * matrices * tokens * passes, 0.0, of_layers, "products"),
        Operation(attention * (3.5 + again.attention), 0.0, of_layers, "attention", s.head_dim * flash),
        Operation(0.0, activations * (3 + again.products), of_layers, "norms, gates, sums"),
        Operation((3 if lora else 4) * head, 0.0, microsteps, "vocabulary"),  # its logits are computed twice
        Operation(0.0, 7 * FLOAT32 * held, 1.0, "optimizer"),
    ]
    operations = [op._replace(bytes=op.bytes + traffic.get(op.name, 0.0)) for op in operations]
    if s.experts:
        chosen = mlp * s.experts_per_token / tensor
        operations.append(Operation(2 * chosen * tokens * passes, 0.0, of_layers, "experts", kernel=True))
    gather, scatter = (along_fsdp(cut, kind) for kind in ("all-gather", "reduce-scatter"))
    added = partial(Sent, "all-reduce", times=1.0, name="gradients")
    sent = [  # weights are gathered forward, and backward again
        gather(item * weights, times=2 * of_layers, name="layers' weights"),
        gather(item * tables, times=2.0 * microsteps, name="vocabulary"),
    ]
    if not lora:
        sent += [
            scatter(item * weights, times=of_layers, name="layers' gradients"),
            scatter(FLOAT32 * tables, times=float(microsteps), name="vocabulary's gradient"),
        ]
    sent.append(added(FLOAT32 * held, group=cut.data, stride=cut.fsdp * cut.expert * tensor))
    if not lora:
        sent.append(added(FLOAT32 * not_experts, group=cut.expert, stride=tensor))
    sent += exchanged(s, cut, item * tokens, (2 + again.products) * of_layers, 2 * of_layers)
    times = of_layers * (1 if parallel else 2) * (2 + again.products)
    sent.append(Sent("all-reduce", item * tokens * s.d_model, tensor, times, "activations", waited=True))
    return work_of(operations, sent)
