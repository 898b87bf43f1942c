"""Training runs that others published, and what the estimate says of them, before it judges ours.

MaxText's tables, bfloat16, one slice each. Its own model was then without gate, tied, heads of 256, attention
and MLP in parallel; on v5e its flash attention computed the whole square. Steps that are not printed follow
from the printed MFU, by the accounting of that commit.
"""

from typing import NamedTuple

from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.chips import topology
from pretrainrl_jax.planning.estimate import EFFICIENCIES, Estimate, estimate
from pretrainrl_jax.planning.work import Again, Form, training_work
from pretrainrl_jax.report.columns import markdown

_V5E = "AI-Hypercomputer/maxtext, MaxText/configs/v5e/README.md at 76bd53b"
_V5P = "AI-Hypercomputer/maxtext, MaxText/configs/v5p/README.md at 76bd53b"
_V6E = "AI-Hypercomputer/tpu-recipes, training/trillium at c8cfe2f"
WITHIN = 0.15


class Published(NamedTuple):
    """A run: what was run, and how long a step took."""

    name: str
    slice: str
    shape: ModelShape
    rows: int  # a chip
    time: int  # tokens of a row
    tensor: int
    remat: str  # "full", "none" (all products kept), "mlp" (its first products recomputed)
    seconds: float  # a step
    source: str
    own: bool = False  # MaxText's own model: attention and MLP in parallel
    gated: bool = True  # its MLP
    square: bool = False  # attention computes what is masked, too

    @property
    def estimate(self) -> Estimate:
        """What we say of it."""
        place, s = topology(self.slice), self.shape
        gated = 3 * s.d_model * s.d_ff
        of_mlp = 2 / 3 * gated / (2 * s.d_model * (s.heads + s.kv_heads) * s.head_dim + gated)
        share = {"full": 1.0, "none": 0.0, "mlp": of_mlp}[self.remat]
        cut = Cut(1, place.count // self.tensor, self.tensor)
        tokens = float(self.rows * self.tensor * self.time)
        visible = self.time if self.square else self.time / 2
        form = Form(*((3, 5) if self.gated else (2, 3)), *((7, 1) if self.own else (14, 2)))
        work = training_work(s, cut, tokens, visible, tokens, Again(share, 1.0), form=form)
        return estimate(work, place, EFFICIENCIES[place.chip.name])

    @property
    def error(self) -> float:
        """Of the middle of the estimate, as a share of the measurement."""
        return self.estimate.middle / self.seconds - 1


def _own(layers: int, d_model: int, d_ff: int, heads: int) -> ModelShape:
    return ModelShape("llama", 32768, d_model, layers, heads, heads, 256, d_ff, 1e4, 1e-6, tied=True)


_16B, _32B, _64B = (
    _own(*sizes) for sizes in ((32, 5120, 32768, 32), (32, 10240, 32768, 32), (64, 10240, 32768, 32))
)
_128B, _256B = _own(64, 10240, 65536, 64), _own(64, 20480, 65536, 64)
_8B = ModelShape("llama", 128256, 4096, 32, 32, 8, 128, 14336, 5e5, 1e-5, tied=False)
_70B = ModelShape("llama", 128256, 8192, 80, 64, 8, 128, 28672, 5e5, 1e-5, tied=False)
_GPT3 = ModelShape("llama", 50304, 12288, 96, 96, 96, 128, 49152, 1e4, 1e-5, tied=True)
PUBLISHED = (
    Published("16B", "v5e:16x16", _16B, 6, 2048, 1, "full", 10.63, _V5E, own=True, gated=False, square=True),
    Published("32B", "v5e:16x16", _32B, 4, 2048, 1, "full", 12.55, _V5E, own=True, gated=False, square=True),
    Published("64B", "v5e:16x16", _64B, 2, 2048, 1, "full", 13.93, _V5E, own=True, gated=False, square=True),
    Published(
        "128B", "v5e:16x16", _128B, 1, 2048, 16, "full", 14.85, _V5E, own=True, gated=False, square=True
    ),
    Published("32B", "v5p:4x4x4", _32B, 8, 2048, 4, "none", 9.91, _V5P, own=True, gated=False),
    Published("64B", "v5p:4x4x4", _64B, 4, 2048, 4, "none", 10.03, _V5P, own=True, gated=False),
    Published("128B", "v5p:4x4x8", _128B, 2, 2048, 8, "none", 10.24, _V5P, own=True, gated=False),
    Published("128B", "v5p:4x8x8", _128B, 2, 2048, 8, "none", 10.22, _V5P, own=True, gated=False),
    Published("256B", "v5p:8x8x8", _256B, 2, 2048, 8, "none", 20.79, _V5P, own=True, gated=False),
    Published("Llama 3.1 8B", "v6e:2x4", _8B, 3, 8192, 1, "mlp", 3.443, _V6E),
    Published("Llama 3.1 8B", "v6e:4x4", _8B, 3, 8192, 1, "mlp", 3.393, _V6E),
    Published("Llama 3.1 8B", "v6e:8x8", _8B, 5, 8192, 1, "mlp", 5.652, _V6E),
    Published("Llama 3.1 8B", "v6e:16x16", _8B, 4, 8192, 1, "mlp", 4.546, _V6E),
    Published("Llama 3.1 70B", "v6e:8x8", _70B, 2, 8192, 1, "mlp", 18.688, _V6E),
    Published("Llama 3.1 70B", "v6e:16x16", _70B, 5, 8192, 1, "mlp", 42.656, _V6E),
    Published("GPT-3 175B", "v6e:16x16", _GPT3, 3, 2048, 1, "full", 17.182, _V6E, gated=False),
)


def table() -> str:
    """Each run, measured and estimated, as Markdown: it stands in the documentation."""
    rows = [
        [
            run.name,
            run.slice,
            f"{run.rows} × {run.time:,}",
            f"{run.seconds:.2f}",
            f"{run.estimate.middle:.2f}",
            f"{run.error:+.0%}".replace("-", "−"),
            f"{run.estimate.shortest:.2f} to {run.estimate.longest:.2f}",
        ]
        for run in PUBLISHED
    ]
    heads = ["model", "slice", "rows a chip", "a step, s", "estimate, s", "error", "range, s"]
    return markdown(heads, rows)
