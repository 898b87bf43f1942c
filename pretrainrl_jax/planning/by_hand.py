"""What programs do and hold on one chip, from shapes alone: of devices for which nothing compiles here.

Work. A training step is `work.training_work`; to it come the traffic of weights, which bounds steps with few
tokens a chip, and attention's scores, which XLA writes to memory where it computes it. A forward pass and
decoding are counted likewise. Masked places are computed: of a row the whole square, by either kernel.
Weights are float32 masters: a chip reads its part, writes the layer's weights in the compute dtype, and reads
these in each product. Where `fsdp` cuts them, each layer's are gathered whenever they are used, in decoding
at every token, and the head's as well. Products count at bfloat16's rate, whatever the compute dtype.

Memory, beside parameters, moments and other models:

- gradients, float32 as the parameters and cut like them; with several microsteps twice, the sum and the
  newest;
- activations saved for the backward pass, as JAX's own differentiation keeps them: of each layer its input
  where it is recomputed, else all that a derivative reads, weights in the compute dtype included;
- one layer's working set: where layers are recomputed, all that its derivatives read; else its activations or
  their gradients, and scores, float32 and in the compute dtype, where XLA computes attention;
- weights of two layers in the compute dtype, one in use and one on its way, and one layer's gradient before
  it is cut;
- the vocabulary: the head in the compute dtype, cut, and its gradient; a few float32 arrays of the size of
  the hidden states that meet it, and blocks of its rows and of logits;
- while decoding, keys and values of all tokens there will be, and logits of a step.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.model import splash
from pretrainrl_jax.model.attention import Kernel, can_use_cudnn
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.lora import join, split
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.vocabulary import block_size
from pretrainrl_jax.model.whole import copy_bytes, takes_copy
from pretrainrl_jax.planning.work import (
    FLOAT32,
    OURS,
    Again,
    Operation,
    Passes,
    Work,
    along_fsdp,
    choices_of,
    layers_work,
    together,
    training_work,
    work_of,
)

FOLD = 3  # float32 arrays of the size of the hidden states that a fold over the vocabulary holds


class Packed(NamedTuple):
    """Rows that are read together."""

    rows: int
    time: int  # tokens of a row
    sources: int  # hidden states of a row that meet the vocabulary
    sequences: bool = False  # every tree of a row is one sequence: documents


def visited(packed: Packed, block: int) -> float:
    """Keys that splash attention computes scores of for a query, in blocks: those before it, none later.

    Of trees those of its branch are computed apart: as far back as a branch may reach, which is no longer
    than there are states to predict one.
    """
    before = (packed.time + block) / 2
    return before if packed.sequences else before + min(before, packed.sources + 2 * block)


def recomputed(shape: ModelShape, flash: bool) -> Again:
    """What of a layer its backward pass computes again; `flash`: no scores are kept in any case."""
    s = shape
    mlp = s.d_model * s.d_ff * (s.experts_per_token or 1)
    every = 2 * s.d_model * (s.heads + s.kv_heads) * s.head_dim + 3 * mlp
    # No derivative reads what the MLP's last product gives; `attention` keeps all but its first two, `up` one
    # of them. A norm after the MLP, and a mixture's routes, read the last, which `up` keeps.
    products = {"full": 1 - mlp / every, "attention": 2 * mlp / every, "up": mlp / every}
    if s.experts or s.traits.norms[1][1]:
        products |= {"full": 1.0, "attention": 3 * mlp / every}
    scores = {"none": 0.0, "full": 1.0}.get(s.remat, 0.0 if flash else 1.0)
    # XLA keeps its probabilities, or computes them with the rest: a flash kernel does so in any case.
    return Again(products.get(s.remat, 0.0), scores - (0.0 if flash else 0.5))


@dataclass(frozen=True)
class ByHand:
    """Programs of one model on one chip of a mesh. Rows and tokens are that chip's own."""

    shape: ModelShape
    cut: Cut
    kernel: Kernel
    room: float = 0.0  # bytes for a copy of the weights to decode from
    stored: int = FLOAT32  # bytes of a number of the parameters that products read

    @cached_property
    def item(self) -> int:
        """Bytes of a number in the compute dtype."""
        return jnp.dtype(self.shape.dtype).itemsize

    @property
    def copy(self) -> float:
        """Bytes of a copy of the weights to decode from, where one is made."""
        made = takes_copy(self.shape, self.cut, self.room)
        return copy_bytes(self.shape, self.cut) if made else 0.0

    @property
    def weights(self) -> float:
        """Entries of a layer's matrices that a chip multiplies with: of a mixture all its own experts'."""
        return sum(OURS.entries(self.shape, self.cut))

    @property
    def table(self) -> float:
        """Entries of the head that a chip multiplies with."""
        return self.shape.vocabulary * self.shape.d_model / self.cut.tensor

    @property
    def parameters(self) -> float:
        """Bytes of a chip's part, float32; those of norms, which every chip has, are next to nothing."""
        return FLOAT32 * parameters(self.shape, self.cut.expert).total / (self.cut.fsdp * self.cut.tensor)

    @property
    def learned(self) -> float:
        """The same of what learns."""
        return FLOAT32 * parameters(self.shape, self.cut.expert).learned / (self.cut.fsdp * self.cut.tensor)

    def share(self, rows: float) -> int:
        """Rows of a chip, of so many in all: each has as many, some of them empty."""
        return max(1, math.ceil(rows / self.cut.rows))

    def flash(self, time: int, masked: bool = False) -> bool:
        """Whether a row attends to itself without writing scores; `masked`: it is told a mask."""
        if self.kernel == "splash":
            return splash.suits(self.shape, time) and not masked
        return self.kernel == "cudnn" and can_use_cudnn(self.shape.dtype, self.shape.head_dim, [time, time])

    def _scores(self, tokens: float, length: float) -> float:
        """Bytes of a layer's scores, and of the probabilities they become."""
        return (FLOAT32 + self.item) * tokens * self.shape.heads / self.cut.tensor * length

    def _square(self, tokens: float, length: float) -> float:
        """Bytes of memory traffic of XLA's attention: both are written and read."""
        return 2 * self._scores(tokens, length)

    def _cast(self, entries: float) -> float:
        """Bytes of memory traffic of weights from float32 masters to one product."""
        if self.item == self.stored and self.cut.fsdp == 1:
            return self.item * entries
        return FLOAT32 * entries / self.cut.fsdp + 2 * self.item * entries

    # Work

    def training(self, packed: Packed, microsteps: int) -> Work:
        """Forward and backward passes over these rows of a chip, so often, and the update."""
        s, (rows, time, sources, sequences) = self.shape, packed
        tokens, flash = float(rows * time), self.flash(time)
        again = s.remat != "none"
        shares = recomputed(s, flash)
        seen, kernels, parts = float(time), 1, 0.0
        if flash and self.kernel == "splash":  # trees take two
            kernels, parts = 1 if sequences else 2, time / splash.part_size(time)
            seen, backward = (visited(packed, of(time)) for of in (splash.block_size, splash.part_size))
            again_seen = 2.5 * (backward / seen - 1)  # five products, of coarser blocks
            shares = shares._replace(attention=shares.attention + again_seen)
        traffic = {
            # Gathered forward and backward; there two products read them, and their gradient is written.
            "products": 2 * self._cast(self.weights) + (0 if s.lora else 2) * self.item * self.weights,
            # Scores and probabilities are written and read; backward theirs and their gradients are.
            # Of a flash kernel its operands, results and their gradients; splash attention's gradient of
            # queries comes in a part for each block of keys.
            "attention": kernels
            * (12 + 2 * parts)
            * (self.item * tokens * s.heads * s.head_dim / self.cut.tensor)
            if flash
            else (2 + again) * self._square(tokens, time),
            "vocabulary": 2 * self._cast(self.table) + (0 if s.lora else 2) * FLOAT32 * self.table,
        }
        return training_work(
            s, self.cut, tokens, seen, rows * sources, shares,
            microsteps=microsteps, item=self.item, flash=flash, traffic=traffic,
        )  # fmt: skip

    def forward(
        self, tokens: float, length: float, sources: float, times: float = 1.0, flash: bool = False,
        cache: float = 0.0,
    ) -> Work:  # fmt: skip
        """Forward passes.

        Args:
            tokens: read in one.
            length: places that each of them attends to.
            sources: hidden states that meet the vocabulary.
            times: how many.
            flash: whether a kernel computes attention.
            cache: bytes of keys and values that all layers together read.
        """
        s, tensor, scores = self.shape, self.cut.tensor, 0.0 if flash else self._square(tokens, length)
        traffic = {"products": self._cast(self.weights), "attention": scores + cache / s.layers}
        how = Passes(), traffic, self.item, flash
        layers = layers_work(s, self.cut, tokens, length, s.layers * times, *how)
        if not sources:
            return layers
        logits = 2 * FLOAT32 * sources * s.vocabulary / tensor  # written and read
        head = Operation(2 * self.table * sources, self._cast(self.table) + logits, times, "vocabulary")
        gathered = along_fsdp(self.cut, "all-gather")(self.item * self.table, times=times, name="vocabulary")
        return together(layers, work_of([head], [gathered]))

    def copied(self) -> tuple[Work, "ByHand"]:
        """What copying the weights takes, and a chip that has them so: nothing of them is sent or cast."""
        if not self.copy:
            return Work((), ()), self
        entries, fsdp = self.copy / self.item, self.cut.fsdp
        made = Operation(0.0, FLOAT32 * entries / fsdp + self.copy, 1.0, "copy of the weights")
        sent = along_fsdp(self.cut, "all-gather")(self.copy, name="copy of the weights")
        alone = self.cut._replace(data=self.cut.data * fsdp, fsdp=1)
        return work_of([made], [sent]), replace(self, cut=alone, stored=self.item, room=0.0)

    # Memory, bytes

    def cache(self, rows: int, length: int) -> float:
        """Keys and values of so many tokens of each row."""
        s = self.shape
        of_token = 2 * s.kv_heads // self.cut.tensor * s.head_dim * self.item
        return float(s.layers * rows * length * of_token)

    def backward(self, packed: Packed) -> float:
        """What the backward pass over these rows of a chip works on at a time, beside what was saved."""
        rows, time, sources, _ = packed
        flash = self.flash(time)
        if self.shape.remat != "none":
            layer = self._saved(rows, time, 1, "none", flash)
        else:
            layer = self.working(rows * time, time, flash)
        if flash and self.kernel == "splash":  # the gradient of queries, in parts
            queries = self.item * rows * time * self.shape.heads * self.shape.head_dim / self.cut.tensor
            layer += queries * time / splash.part_size(time)
        head = self.table / self.cut.fsdp * (self.item + (0 if self.shape.lora else FLOAT32))
        return max(layer + self.held(3), self.fold(rows * sources) + head)

    def saved(self, packed: Packed) -> float:
        """What layers keep of these rows of a chip for the backward pass."""
        rows, time, _, _ = packed
        return self._saved(rows, time, self.shape.layers, self.shape.remat, self.flash(time))

    def head(self) -> float:
        """In the compute dtype, where that is another one than the parameters'."""
        return self.item * self.table / self.cut.fsdp if self.item != FLOAT32 else 0.0

    def held(self, layers: int) -> float:
        """Of so many layers, gathered or cast; of one (a gradient) where parameters are used as they lie."""
        as_they_lie = self.item == FLOAT32 and self.cut.fsdp == 1
        return (1 if as_they_lie else layers) * self.item * self.weights

    def fold(self, sources: float) -> float:
        """Of blocks of the vocabulary: states, logits, and two blocks of its rows."""
        s, block = self.shape, block_size(self.shape.d_model)
        states = FOLD * FLOAT32 * sources * s.d_model
        return states + (FLOAT32 + self.item) * sources * block + 2 * self.item * block * s.d_model

    def working(self, tokens: int, length: int, flash: bool) -> float:
        """Activations of a layer while it is computed."""
        s, tensor = self.shape, self.cut.tensor
        heads = 2 * (s.heads + 2 * s.kv_heads) * s.head_dim / tensor
        scores = 0.0 if flash else self._scores(tokens, length)
        choices = choices_of(s, self.cut)
        sorted_ones = 3 * choices * s.d_model if s.experts else 0
        mlp = 3 * choices * s.d_ff / tensor + sorted_ones
        return self.item * tokens * (4 * s.d_model + heads + mlp) + scores

    def _saved(self, rows: int, time: int, layers: int, remat: Policy, flash: bool) -> float:
        """What the backward pass of so many layers reads, as JAX differentiates this chip's part of them.

        A mixture's choices are those of the whole group: as if each token had so many more experts.

        Arrays that grow with the rows are activations; of the others those in the compute dtype are copies of
        weights, and float32 ones the parameters themselves. Flash attention saves no square.
        """
        s, tensor = self.shape, self.cut.tensor
        local = replace(
            s, vocabulary=1, layers=layers, remat=remat, heads=s.heads // tensor, windows=(),
            kv_heads=s.kv_heads // tensor, d_ff=s.d_ff // tensor,
            experts_per_token=min(s.experts, s.experts_per_token * self.cut.expert),
        )  # fmt: skip
        one, two = (_residuals(local, number, time) for number in (1, 2))
        activations = copies = 0.0
        for few, more in zip(one, two, strict=True):
            if more.shape != few.shape:
                square = flash and few.shape[-2:] == (time, time)
                activations += 0.0 if square else _size(more) - _size(few)
            elif few.dtype.itemsize != FLOAT32:
                copies += _size(few) / (self.cut.expert if s.experts in few.shape[:2] else 1)
        return activations * rows + copies / self.cut.fsdp


@cache
def _residuals(shape: ModelShape, rows: int, time: int) -> list[Any]:
    """The arrays that the derivative of a decoder's hidden states by what learns of it keeps."""
    model, row = Model(shape), jax.ShapeDtypeStruct((rows, time), jnp.int32)
    frozen, trained = split(shape.lora, nn.unbox(model.abstract()))

    def derivative(frozen: Any, trained: Any, tokens: Any, mask: Any) -> Any:
        def hidden(trained: Any) -> jax.Array:
            return model.hidden(join(frozen, trained), tokens, tokens, mask).hidden

        return jax.vjp(hidden, trained)[1]

    mask = jax.ShapeDtypeStruct((rows, time, time), jnp.bool_)
    return jax.tree.leaves(jax.eval_shape(derivative, frozen, trained, row, mask))


def _size(x: Any) -> float:
    return float(math.prod(x.shape) * x.dtype.itemsize)
