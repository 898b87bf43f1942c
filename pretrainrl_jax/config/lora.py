"""Adapters: the part of a model that learns where the rest stays as it is."""

from dataclasses import fields
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, model_validator

from pretrainrl_jax.config.declare import Names, Section, section, setting, wrong

MATRICES = ("query", "key", "value", "out", "gate", "up", "down")
THEIRS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPS = {"attention": MATRICES[:4], "mlp": MATRICES[4:], "all-linear": MATRICES}


@section
class LoraConfig(Section):
    """Low-rank adapters (LoRA): every stage trains them alone, beside a model that is there (docs/lora.md).

    A model that is made here is pretrained whole.
    """

    results = ("adapted", "train", "selfimprove", "tuning")
    rank: NonNegativeInt = setting(0, "of each adapter (peft: r); 0 trains all parameters", "r")
    alpha: PositiveFloat = setting(32.0, "adapters count alpha / rank times (peft: lora_alpha)", "α")
    targets: Names = setting(
        ("attention", "mlp"),
        "matrices that have one (peft: target_modules): attention (query, key, value, out), mlp (gate, up, "
        "down), or some of these by name, as query,value or q_proj,v_proj",
    )
    rank_stabilised: bool = setting(False, "they count alpha / sqrt(rank) times instead (peft: use_rslora)")
    base_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "of the parameters that do not learn; adapters are float32"
    )

    @property
    def matrices(self) -> tuple[str, ...]:
        """Those that `targets` means, by our names, in a layer's order."""
        ours: dict[str, str] = dict(zip(THEIRS, MATRICES, strict=True))
        meant = {one for name in self.targets for one in GROUPS.get(name, (ours.get(name, name),))}
        return tuple(name for name in MATRICES if name in meant)

    @model_validator(mode="after")
    def _fits(self) -> "LoraConfig":
        known = (*GROUPS, *MATRICES, *THEIRS)
        if unknown := [name for name in self.targets if name not in known]:
            raise ValueError(
                f"lora.targets names {unknown[0]!r}: the groups are {', '.join(GROUPS)}, the matrices "
                f"{', '.join(MATRICES)}"
            )
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise wrong("lora.targets", self.targets, "name one or more, each once")
        others = {item.name: item.default for item in fields(self) if item.name != "rank"}
        for name, default in others.items():
            if not self.rank and (value := getattr(self, name)) != default:
                raise wrong(f"lora.{name}", value, "there are no adapters without lora.rank")
        return self
