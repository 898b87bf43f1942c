"""From what a chip does to how long it takes: a roofline with fixed efficiencies, and a range around it."""

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


def estimate(work: Work, topology: Topology, efficiencies: Efficiencies) -> Estimate:
    """How long one execution takes.

    Each operation takes as long as the slower of its products and its memory traffic. What is sent ahead of
    its use, or after it, is hidden behind all of them in the shortest time and behind nothing in the longest;
    in the middle the longer of the two hides the other. What the next operation waits for is hidden in the
    shortest alone.
    """
    low, middle, high = efficiencies
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
