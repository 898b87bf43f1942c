"""Shares of published peaks that programs reach, from the measurements of others.

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

from pretrainrl_jax.planning.chips import Chip
from pretrainrl_jax.planning.estimate import Efficiencies, Efficiency

_TPU_LINKS, _KERNELS = (0.65, 0.82, 0.95), (0.50, 0.62, 0.65)


def _of(
    products: tuple[float, float, float],
    memory: tuple[float, float, float],
    links: tuple[float, float, float],
) -> Efficiencies:
    return Efficiencies(
        *(Efficiency(*shares) for shares in zip(products, _KERNELS, memory, links, strict=True))
    )


_MEASURED = {
    "v5e": _of((0.84, 0.90, 0.92), (0.75, 0.83, 0.90), _TPU_LINKS),
    "v5p": _of((0.84, 0.90, 0.92), (0.75, 0.83, 0.90), _TPU_LINKS),
    "v6e": _of((0.73, 0.82, 0.90), (0.75, 0.83, 0.90), _TPU_LINKS),
    "h100": _of((0.71, 0.75, 0.80), (0.85, 0.89, 0.95), (0.63, 0.80, 0.82)),
    "h200": _of((0.71, 0.75, 0.80), (0.83, 0.87, 0.93), (0.63, 0.80, 0.82)),
    "a100": _of((0.80, 0.87, 0.87), (0.83, 0.87, 0.93), (0.63, 0.78, 0.82)),
}


def efficiencies(chip: Chip) -> Efficiencies:
    """Those of a chip: the least and the most that was measured, and what the estimate takes."""
    return _MEASURED[chip.name]
