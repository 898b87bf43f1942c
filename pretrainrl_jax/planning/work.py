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


def choices_of(shape: ModelShape, cut: Cut) -> int:
    """Rows of a chip's MLPs for each of its tokens: a mixture's are the choices of its whole group."""
    return shape.experts_per_token * cut.expert or 1


class Form(NamedTuple):
    """What a layer is made of, forward; ours unless other numbers are given."""

    mlp: int = 3  # matrices of an MLP, with its gate
    gates: int = 5  # arrays [tokens, d_ff] that it reads and writes
    streams: int = 14  # arrays [tokens, d_model] that norms, rotation and sums read and write
    sums: int = 2  # over the tensor axis

    def entries(self, shape: ModelShape, cut: Cut) -> tuple[float, float]:
        """Of its matrices on a chip: those that every token meets, and those of all its own experts."""
        s, mlp = shape, self.mlp * shape.d_model * shape.d_ff
        beside = s.d_model * s.experts if s.experts else mlp  # attention's: a router, or the MLP
        attention = 2 * s.d_model * (s.heads + s.kv_heads) * s.head_dim
        return (attention + beside) / cut.tensor, mlp * s.experts / cut.expert / cut.tensor


OURS = Form()


class Again(NamedTuple):
    """Shares of a layer's forward pass that the backward pass does again."""

    products: float = 0.0
    attention: float = 0.0  # beside the scores, which a flash kernel computes again in any case


class Passes(NamedTuple):
    """How often a step does what the forward pass does once."""

    products: float = 1.0
    attention: float = 1.0
    streams: float = 1.0
    summed: float = 1.0  # over the tensor axis; so often a group's tokens are gathered along the expert axis
    gathered: float = 1.0  # weights; so often what experts give is summed


def layers_work(
    shape: ModelShape, cut: Cut, tokens: float, visible: float, times: float, passes: Passes,
    traffic: Mapping[str, float], item: int, flash: bool, form: Form = OURS,
) -> Work:  # fmt: skip
    """What layers do, `times` in all, without the gradients of weights. Arguments as of `training_work`."""
    s, tensor, choices = shape, cut.tensor, choices_of(shape, cut)
    dense, experts = form.entries(s, cut)
    sorting = CHOICES * choices * s.d_model if s.experts else 0
    streams = item * tokens * (form.streams * s.d_model + form.gates * choices * s.d_ff / tensor + sorting)
    attention = 4 * visible * s.heads * s.head_dim / tensor * tokens
    operations = [
        Operation(2 * dense * tokens * passes.products, 0.0, times, "products"),
        Operation(attention * passes.attention, 0.0, times, "attention", s.head_dim * flash),
        Operation(0.0, streams * passes.streams, times, "norms, gates, sums"),
    ]
    operations = [op._replace(bytes=op.bytes + traffic.get(op.name, 0.0)) for op in operations]
    if s.experts:
        chosen = form.mlp * s.d_model * s.d_ff * s.experts_per_token / tensor
        products = 2 * chosen * tokens * passes.products
        operations.append(Operation(products, 0.0, times, "experts", kernel=True))
    gather, states = along_fsdp(cut, "all-gather"), item * tokens * s.d_model
    # A group's tokens go to each chip that shares its experts, and the sums of theirs back.
    among = partial(Sent, group=cut.expert, name="experts' tokens", waited=True, stride=tensor)
    sent = [
        gather(item * (dense + experts), times=times * passes.gathered, name="layers' weights"),
        among("all-gather", states * cut.expert, times=times * passes.summed),
        among("reduce-scatter", states * cut.expert, times=times * passes.gathered),
        Sent("all-reduce", states, tensor, form.sums * times * passes.summed, "activations", waited=True),
    ]
    return work_of(operations, sent)


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
    form: Form = OURS,
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
        form: of a layer.
    """
    s, of_layers = shape, float(shape.layers * microsteps)
    backward = 1 if s.lora else 2  # weights beside adapters have no gradient, and adapters next to nothing
    streams = 3 + again.products
    passes = Passes(1 + backward + again.products, 3.5 + again.attention, streams, streams - 1, 2.0)
    layers = layers_work(s, cut, tokens, visible, of_layers, passes, traffic, item, flash, form)
    tables = s.vocabulary * s.d_model * (1 if s.tied else 2) / cut.tensor
    head = 2 * s.vocabulary / cut.tensor * s.d_model * sources * (2 + backward)  # logits are computed twice
    dense, experts = form.entries(s, cut)
    held = (s.layers * (dense + experts) + tables) / cut.fsdp
    learned = parameters(s, cut.expert).adapters / cut.tensor / cut.fsdp if s.lora else held
    operations = [
        Operation(head, traffic.get("vocabulary", 0.0), microsteps, "vocabulary"),
        Operation(0.0, 7 * FLOAT32 * learned, 1.0, "optimizer"),
    ]
    added = partial(Sent, "all-reduce", times=1.0, name="gradients")
    sent = [
        along_fsdp(cut, "all-gather")(item * tables, times=2.0 * microsteps, name="vocabulary"),
        added(FLOAT32 * learned, group=cut.data, stride=cut.fsdp * cut.expert * cut.tensor),
    ]
    if not s.lora:
        scatter = along_fsdp(cut, "reduce-scatter")
        not_experts = held - s.layers * experts / cut.fsdp
        sent += [
            scatter(item * (dense + experts), times=of_layers, name="layers' gradients"),
            scatter(FLOAT32 * tables, times=float(microsteps), name="vocabulary's gradient"),
            added(FLOAT32 * not_experts, group=cut.expert, stride=cut.tensor),
        ]
    return together(layers, work_of(operations, sent))
