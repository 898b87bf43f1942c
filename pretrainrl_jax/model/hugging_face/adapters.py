"""Adapters as peft keeps them: a folder with adapter_config.json and adapter_model.safetensors.

The table of weights tells their names and axes. They are small: a host reads and writes them whole.
"""

import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config.machine import MATRICES, THEIRS
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import is_process_0
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.families import weights_of
from pretrainrl_jax.model.hugging_face.config import read_config as read_json
from pretrainrl_jax.model.hugging_face.files import ADAPTER, DTYPES, listed, read_header, save_tensors
from pretrainrl_jax.model.hugging_face.reading import NOT_FINITE, Place
from pretrainrl_jax.model.lora import A, B, Lora, split
from pretrainrl_jax.model.mesh import replicated
from pretrainrl_jax.model.partitioning import place

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
BY_NUMBER = {"gate": "w1", "up": "w3", "down": "w2"}  # what Mixtral calls an expert's matrices
SIDES = {A: "lora_A.weight", B: "lora_B.weight"}
# What is read of a description or changes no result. Anything else that is not left empty is refused.
READ = (
    "r", "lora_alpha", "use_rslora", "base_model_name_or_path", "target_modules", "exclude_modules",
    "layers_pattern", "lora_dropout", "task_type", "auto_mapping", "peft_version", "inference_mode",
    "runtime_config", "eva_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
EMPTY = (None, False, [], {})
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "revision": (None, "main"),
    # Others take what A · B is at first out of the base's weights, again whenever they are loaded.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters alone, and no model that they are for."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def read_config(folder: Path) -> tuple[Lora, str]:
    """The adapters of a folder, and the name or path of the model they are for.

    Raises InputError if it is damaged, or they are of a kind that is not read.
    """
    path, config = folder / ADAPTER, read_json(folder, ADAPTER)
    for name, value in config.items():
        if name not in READ and value not in PLAIN.get(name, EMPTY):
            raise InputError(
                f"{path} has {name}={value!r}, which is not read: merge it into its model "
                "(peft: merge_and_unload, then save_pretrained)"
            )
    rank: Any
    alpha: Any
    rank, alpha, stabilised = config.get("r"), config.get("lora_alpha"), config.get("use_rslora") or False
    fits = type(rank) is int and rank > 0 and type(alpha) in (int, float) and math.isfinite(alpha)
    if not fits or not isinstance(stabilised, bool):
        given = f"r={rank!r}, lora_alpha={alpha!r} and use_rslora={stabilised!r}"
        raise InputError(f"{path} has {given}: they must be 1 or more, a number, and true or false")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base or Path(base).absolute() == folder.absolute():
        raise InputError(
            f"{path} has base_model_name_or_path={base!r}: write there the folder or the name of the model "
            "that it is for"
        )
    found = {tensor.split(".")[-3:][0] for tensor in _tensors(folder)}
    if not found:  # else it would be the model that it is for, without a word
        raise InputError(f"{folder / WEIGHTS} has no tensor: it is no adapter")
    names = zip(MATRICES, THEIRS, strict=True)
    targets = tuple(name for name, theirs in names if found & {theirs, BY_NUMBER.get(name)})
    return Lora(rank, float(alpha), targets, stabilised), base


def read_adapter(folder: Path, model: Model, places: Any) -> Params:
    """The adapters of a folder as parameters of a model that has some, float32, where `places` says.

    Raises InputError if tensors are missing, unknown, of another shape, or not finite.
    """
    tensors, wanted = _tensors(folder), _names(model)
    extra, missing = [n for n in tensors if n not in wanted], [n for n in wanted if n not in tensors]
    if extra or missing:
        says = [f"has no tensor {listed(missing)}"] * bool(missing)
        says += [f"has {listed(extra)} that is no adapter of a matrix of it"] * bool(extra)
        raise InputError(f"{folder} {', and '.join(says)}: the adapters do not belong to their model")
    _, shapes = split(model.shape.lora, nn.unbox(model.abstract()))
    flat = {path: np.zeros(x.shape, np.float32) for path, x in _flat(shapes).items()}
    for name, (path, at) in wanted.items():
        matrix, theirs = _matrix(path, flat[path][at]), np.asarray(tensors[name], np.float32)
        if theirs.shape != matrix.T.shape:
            raise InputError(f"{folder}: {name} has shape {theirs.shape} and not {matrix.T.shape}")
        if not np.isfinite(theirs).all():
            raise InputError(f"{folder}: {name} is {NOT_FINITE}")
        matrix[:] = theirs.T
    lies = _flat(split(model.shape.lora, places)[1])
    return flax.traverse_util.unflatten_dict({path: place(x, lies[path]) for path, x in flat.items()})


def write_adapter(folder: Path, model: Model, params: Params, base: str) -> int:
    """Write a model's adapters as peft loads them beside `base`; gives their bytes.

    Of several processes all must call it; process 0 writes. Raises InputError if peft has no adapters of
    these matrices alone, OSError if they cannot be written.
    """
    lora = model.shape.lora
    assert lora is not None
    if model.shape.experts and ("gate" in lora.targets) != ("up" in lora.targets):
        raise InputError(
            "peft has an expert's gate and up in one matrix, and lora.targets names one of them alone: "
            "export merged weights"
        )
    _, adapters = split(lora, params)
    if model.mesh is not None:
        adapters = jax.jit(lambda x: x, out_shardings=replicated(model.mesh))(adapters)
    flat = {path: np.asarray(x) for path, x in _flat(adapters).items()}
    tensors = {
        name: np.ascontiguousarray(_matrix(path, flat[path][at]).T)
        for name, (path, at) in _names(model).items()
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "use_rslora": lora.rank_stabilised,
        "bias": "none",
        "inference_mode": True,
    }
    save_tensors(folder / WEIGHTS, tensors)
    if is_process_0():
        write_json(folder / ADAPTER, config)
    return sum(x.nbytes for x in tensors.values())


def _flat(tree: Any) -> dict[tuple[str, ...], Any]:
    flat: Any = flax.traverse_util.flatten_dict(tree)
    return flat


def _matrix(path: tuple[str, ...], ours: np.ndarray) -> np.ndarray:
    """A view of one A or B as a matrix of all its inputs and outputs."""
    return ours.reshape(-1, ours.shape[-1]) if path[-1].endswith(A) else ours.reshape(ours.shape[0], -1)


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"no {WEIGHTS} in {folder}: only safetensors are read")
    tensors = {}
    for name, tensor in read_header(folder / WEIGHTS).items():
        if tensor.kind not in DTYPES or len(tensor.shape) != 2:
            raise InputError(f"{folder}: {name} is no matrix of {', '.join(DTYPES)}")
        tensors[name] = tensor.view(tuple(slice(0, size) for size in tensor.shape))
    return tensors


def _names(model: Model) -> dict[str, tuple[tuple[str, ...], Place]]:
    """Of each tensor of a folder our parameter, and its layer and expert there."""
    table = weights_of(model.shape.family)
    _, adapters = split(model.shape.lora, nn.unbox(model.abstract()))
    names = {}
    for path, x in _flat(adapters).items():
        side = A if path[-1].endswith(A) else B
        weight = table["/".join((*path[:-1], path[-1].removesuffix(side)))].theirs
        for at in np.ndindex(*x.shape[: weight.count("{}")]):
            names[PREFIX + weight.format(*at).removesuffix("weight") + SIDES[side]] = (path, at)
    return names
