"""The model, its adapters, and the devices it lives on."""

from dataclasses import fields
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from pretrainrl_jax.config.declare import NOTHING, Remat, Section, Share, Some, section, setting, wrong

MIXTURES = ("mixtral", "olmoe", "qwen3_moe")  # families of experts
MATRICES = ("query", "key", "value", "out", "gate", "up", "down")
THEIRS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPS = {"attention": MATRICES[:4], "mlp": MATRICES[4:], "all-linear": MATRICES}


@section
class ModelConfig(Section):
    """The language model: one that is there, or the shape of one made here."""

    results = ("pretrain",)
    path: str = setting("", "Hugging Face folder or checkpoint to start from; empty: random weights")
    family: Literal[
        "llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma3_text", "mixtral", "olmoe", "qwen3_moe"
    ] = setting("qwen3", "architecture, as model/families.py describes it")
    d_model: PositiveInt = setting(128, "size of the residual stream", was="width")
    layers: PositiveInt = setting(2, "number of layers")
    heads: PositiveInt = setting(4, "query heads")
    kv_heads: PositiveInt = setting(4, "key and value heads; divides heads")
    head_dim: PositiveInt = setting(32, "size of one head", was="head_width")
    d_ff: PositiveInt = setting(512, "hidden size of the gated MLP, or of each expert", was="mlp_width")
    experts: NonNegativeInt = setting(0, "of a mixture, where the family is one", "E")
    experts_per_token: NonNegativeInt = setting(0, "that the router chooses for each token")
    norm_topk_prob: bool = setting(True, "the weights of the chosen experts add up to 1")
    router_loss: float = setting(-1.0, "router_aux_loss_coef, which balances experts; -1: the model's own")
    vocabulary: NonNegativeInt = setting(0, "rows of the embedding; 0 takes the tokenizer's size")
    rope_theta: PositiveFloat = setting(10000.0, "base of the rotary position embedding")
    norm_epsilon: PositiveFloat = setting(1e-6, "epsilon of RMS norms")
    tied: bool = setting(True, "the head is the embedding, transposed")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "compute dtype; parameters stay float32")
    remat: Remat = setting(
        "none", "what the backward pass computes again, to save memory (docs/scale.md)", results=NOTHING
    )

    def _fits(self) -> None:
        if self.heads % self.kv_heads:
            raise wrong("model.heads", self.heads, f"make it a multiple of model.kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise wrong("model.head_dim", self.head_dim, "rotary embedding needs an even one")
        if self.router_loss < 0 and self.router_loss != -1:
            raise wrong("model.router_loss", self.router_loss, "give 0 or more, or -1 for the model's own")
        mixture = self.family in MIXTURES
        if not self.path and not mixture and self.router_loss > 0:
            raise wrong("model.router_loss", self.router_loss, f"the family {self.family} has no experts")
        if not self.norm_topk_prob and self.family not in ("olmoe", "qwen3_moe"):
            raise wrong("model.norm_topk_prob", False, f"the family {self.family} has no such choice")
        if not mixture and (self.experts or self.experts_per_token):
            raise wrong("model.experts", self.experts, f"the family {self.family} has none")
        if mixture and not 1 <= self.experts_per_token <= self.experts and not self.path:
            given = f"model.experts is {self.experts} and model.experts_per_token {self.experts_per_token}"
            raise ValueError(f"{given}: a mixture needs 1 or more a token, and at least as many in all")


@section
class LoraConfig(Section):
    """Low-rank adapters (LoRA): every stage trains them alone, beside a model that is there (docs/lora.md).

    A model that is made here is pretrained whole.
    """

    results = ("adapted", "train", "selfimprove", "tuning")
    rank: NonNegativeInt = setting(0, "of each adapter (peft: r); 0 trains all parameters", "r")
    alpha: PositiveFloat = setting(32.0, "adapters count alpha / rank times (peft: lora_alpha)", "α")
    targets: Some[str] = setting(
        ("attention", "mlp"), "matrices with one (peft: target_modules): attention, mlp, or by name, as query"
    )
    rank_stabilised: bool = setting(False, "they count alpha / sqrt(rank) times instead (peft: use_rslora)")
    base_dtype: Literal["float32", "bfloat16"] = setting("float32", "of the parameters that do not learn")

    @property
    def matrices(self) -> tuple[str, ...]:
        """Those that `targets` means, by our names, in a layer's order."""
        ours: dict[str, str] = dict(zip(THEIRS, MATRICES, strict=True))
        meant = {one for name in self.targets for one in GROUPS.get(name, (ours.get(name, name),))}
        return tuple(name for name in MATRICES if name in meant)

    def _fits(self) -> None:
        known = (*GROUPS, *MATRICES, *THEIRS)
        if unknown := [name for name in self.targets if name not in known]:
            there = f"the groups are {', '.join(GROUPS)}, the matrices {', '.join(MATRICES)}"
            raise ValueError(f"lora.targets names {unknown[0]!r}: {there}")
        for item in fields(self) if not self.rank else ():
            if (value := getattr(self, item.name)) != item.default:
                raise wrong(f"lora.{item.name}", value, "there are no adapters without lora.rank")


@section
class MeshConfig(Section):
    """Devices along four axes; one of them may be -1 and takes what the others leave."""

    data: int = setting(-1, "devices along the batch, each with all parameters")
    fsdp: int = setting(1, "devices along the batch that share each parameter along the model axis")
    tensor: int = setting(1, "devices that share heads, MLP and vocabulary")
    expert: int = setting(1, "devices along the batch that share the experts of a mixture")

    def _fits(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor, self.expert)
        if sizes.count(-1) > 1 or 0 in sizes or min(sizes) < -1:
            given = ", ".join(f"mesh.{item.name}={getattr(self, item.name)}" for item in fields(self))
            raise ValueError(f"{given}: each must be 1 or more, or one of them -1")


@section
class HostsConfig(Section):
    """Several processes as one run; each has a part of the devices. It changes no result."""

    coordinator: str = setting(
        "", "host:port of process 0; empty: what a TPU pod, Slurm, Open MPI or Kubernetes says"
    )
    count: NonNegativeInt = setting(0, "processes in all, where hosts.coordinator is given")
    index: NonNegativeInt = setting(0, "number of this process, from 0")
    dead_seconds: PositiveFloat = setting(30.0, "a process silent for so long ends the run")
    stall_seconds: PositiveFloat = setting(900.0, "a wait for other processes or devices this long ends it")
    maintenance: bool = setting(True, "a notice of Google Cloud (maintenance, preemption) counts as SIGTERM")

    def _fits(self) -> None:
        if self.coordinator and not self.index < self.count:
            given = f"hosts.index is {self.index} and hosts.count {self.count}"
            raise ValueError(f"{given}: processes are numbered from 0, and all counted")


@section
class PlatformConfig(Section):
    """What is chosen for the kind of device (platforms.py), and what is to be chosen instead."""

    attention: Literal["auto", "xla", "cudnn", "splash"] = setting(
        "auto", "attention's kernel, where it can compute the model's; auto: the platform's (docs/scale.md)"
    )
    programs: str = setting("", "folder that keeps compiled programs; empty: the user's cache; none: none")
    programs_gigabytes: PositiveFloat = setting(4.0, "its size at most: what was unused longest goes first")
    decoding_memory: Share = setting(
        0.7, "decode from a copy of all weights up to this share of a device; 0: never"
    )
