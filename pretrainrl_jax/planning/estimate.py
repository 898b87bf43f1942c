"""From what a chip does to how long it takes: a roofline with fixed efficiencies, and a range around it.

The efficiencies are shares of published peaks that programs reach, from the measurements of others.

products: of large bfloat16 matrices. v5e 8192 cubed 0.92 and 4096 cubed 0.84 (jax-ml/jax,
docs/pallas/tpu/matmul.ipynb); v6e 8192 cubed 0.90 on the device and 0.82 with the host's clock
(AI-Hypercomputer/tpu-recipes, microbenchmarks), 0.73 to 0.75 (yangwhale/gpu-tpu-pedia); v5p: none is
published, as v5e. H100 0.71 to 0.80 (marin-community/marin, gpu-hardware-target-report;
stas00/ml-engineering), "H200 is the same"; A100 0.87 (stas00/ml-engineering).
kernels: of flash attention, beside the share of the matrix unit that a head fills. H100 0.50 to 0.65, 0.62 at
heads of 128 (FlashAttention-3, arXiv 2407.08608); none is published of TPUs.
memory: v6e 0.83 (tpu-recipes, microbenchmarks), H100 0.85 to 0.95 (BabelStream, marin), H200 0.83 to 0.93.
links: v5e all-gather 0.82 on a line, 0.95 on a ring (jax-ml/scaling-book, sharding); v5p and v6e 0.96 of one
link (marin-community/marin, issue 6736), v6e all-reduce over 256 chips 0.65 (tpu-recipes, microbenchmarks);
NVLink 0.63 to 0.82 (marin; stas00/ml-engineering).
"""

from typing import NamedTuple

from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.work import Operation, Work


class Efficiency(NamedTuple):
    """Shares of the published rates that real programs reach."""

    products: float
    kernels: float  # attention's, of the part of the matrix unit that a head fills
    memory: float
    links: float


class Efficiencies(NamedTuple):
    """The least and the most that is expected, and what the estimate takes."""

    low: Efficiency
    middle: Efficiency
    high: Efficiency


Range = tuple[float, float, float]
_TPU_LINKS, _KERNELS = (0.65, 0.82, 0.95), (0.50, 0.62, 0.65)


def _of(products: Range, memory: Range, links: Range) -> Efficiencies:
    shares = zip(products, _KERNELS, memory, links, strict=True)
    return Efficiencies(*(Efficiency(*each) for each in shares))


EFFICIENCIES = {  # by a chip's name
    "v5e": _of((0.84, 0.90, 0.92), (0.75, 0.83, 0.90), _TPU_LINKS),
    "v5p": _of((0.84, 0.90, 0.92), (0.75, 0.83, 0.90), _TPU_LINKS),
    "v6e": _of((0.73, 0.82, 0.90), (0.75, 0.83, 0.90), _TPU_LINKS),
    "h100": _of((0.71, 0.75, 0.80), (0.85, 0.89, 0.95), (0.63, 0.80, 0.82)),
    "h200": _of((0.71, 0.75, 0.80), (0.83, 0.87, 0.93), (0.63, 0.80, 0.82)),
    "a100": _of((0.80, 0.87, 0.87), (0.83, 0.87, 0.93), (0.63, 0.78, 0.82)),
}


class Estimate(NamedTuple):
    """Seconds of one execution. compute, memory and network: each as if it were alone."""

    compute: float
    memory: float
    network: float
    shortest: float
    middle: float
    longest: float

    @property
    def bound(self) -> str:
        """What takes the longest."""
        alone = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(alone, key=lambda name: alone[name])


def estimate(work: Work, topology: Topology, shares: Efficiencies) -> Estimate:
    """How long one execution takes.

    Each operation takes as long as the slower of its products and its memory traffic. What is sent ahead of
    its use, or after it, is hidden behind all of them in the shortest time and behind nothing in the longest;
    in the middle the longer of the two hides the other. What the next operation waits for is hidden in the
    shortest alone.
    """
    low, middle, high = shares
    chip = topology.chip
    ahead, waited = network(work, topology, middle, False), network(work, topology, middle, True)
    products = sum(op.times * op.flops / _rate(op, topology, middle) for op in work.operations)
    return Estimate(
        products,
        work.bytes / (chip.hbm_bandwidth * middle.memory),
        ahead + waited,
        max(on_chip(work, topology, high), network(work, topology, high)),
        max(on_chip(work, topology, middle), ahead) + waited,
        on_chip(work, topology, low) + network(work, topology, low),
    )


def _rate(operation: Operation, topology: Topology, share: Efficiency) -> float:
    """FLOPs a second."""
    chip = topology.chip
    if not operation.head_dim:
        return chip.flops * share.products
    return chip.flops * share.kernels * min(1.0, operation.head_dim / chip.side)


def on_chip(work: Work, topology: Topology, share: Efficiency) -> float:
    """Seconds of all operations, one after another."""
    memory = topology.chip.hbm_bandwidth * share.memory
    return sum(
        op.times * max(op.flops / _rate(op, topology, share), op.bytes / memory) for op in work.operations
    )


def network(work: Work, topology: Topology, share: Efficiency, waited: bool | None = None) -> float:
    """Seconds of all collectives, one after another; of those that are waited for, or of the others."""
    return sum(
        sent.times * sent.crossing / (topology.network(sent.group, sent.stride) * share.links)
        for sent in work.sent
        if sent.group > 1 and waited in (None, sent.waited)
    )
