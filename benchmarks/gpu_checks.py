"""What gpu.py checks: the core on one device against the same functions in float32 on the CPU."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gpu_measures import PRETRAINRL, Record, packed, synthetic_trees

from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.decoded import DecodedBatch
from pretrainrl_jax.decoding.draw import inverse_cdf, uniform
from pretrainrl_jax.decoding.sampling import filtered_logps, prompt_keys, sample
from pretrainrl_jax.model.attention import Kernel, attend, can_use_cudnn, tree_mask
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.objectives.loss import total_loss
from pretrainrl_jax.objectives.scoring import target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.objectives.token_logps import token_logps
from pretrainrl_jax.trees.batch import PackedBatch

GAP = 1e-4  # nats; what is nearer may change its order by rounding


class Precision(NamedTuple):
    """How a device computes."""

    name: str
    dtype: str
    products: str  # jax.default_matmul_precision


EXACT = Precision("float32, highest", "float32", "highest")
TF32 = Precision("float32", "float32", "default")  # where the device has it
BFLOAT16 = Precision("bfloat16", "bfloat16", "default")
Bounds = dict[Precision, float]

# The largest error, as a share of the largest entry, at each precision. In bfloat16 a CPU has about a quarter
# of these at most (of token_logps less: its inputs are numbers of bfloat16, so no error of theirs is in it).
# TF32's are a guess from that, since it rounds to an eighth of bfloat16's.
TOKEN_LOGPS: Bounds = {EXACT: 2e-5, TF32: 1e-4, BFLOAT16: 1e-4}
TOKEN_LOGPS_GRADIENTS = {EXACT: 1e-4, TF32: 5e-3, BFLOAT16: 2e-2}
ATTENTION = {EXACT: 1e-4, TF32: 5e-3, BFLOAT16: 3e-2}
LOGITS = {EXACT: 1e-4, TF32: 1e-2, BFLOAT16: 5e-2}
GRADIENTS = {EXACT: 5e-4, TF32: 2e-2, BFLOAT16: 1e-1}
SCORES, PROBABILITIES = 1e-4, 2e-5  # of decoding, which is checked in exact float32


class Sizes(NamedTuple):
    """Of what is checked: small enough for the CPU."""

    shape: ModelShape
    time: int
    lengths: tuple[int, ...]  # of attention, multiples of cuDNN's tile


_SMALL = ModelShape("qwen3", 20011, 512, 4, 4, 2, 128, 1024, 1e6, 1e-6, tied=True)
_TINY = ModelShape("qwen3", 301, 64, 2, 4, 2, 16, 96, 1e6, 1e-6, tied=True)
SIZES = {"tiny": Sizes(_TINY, 128, (128,)), "": Sizes(_SMALL, 256, (128, 512, 1024))}


def check(name: str, precision: str, error: float, bound: float, note: str = "") -> Record:
    """The record of one check: no number, or one above the bound, fails it."""
    known = float(error) if np.isfinite(error) else None
    passed = known is not None and known <= bound
    return {
        "kind": "check",
        "name": name,
        "precision": precision,
        "error": known,
        "bound": bound,
        "passed": passed,
        "note": note,
    }


def compare(name: str, precision: str, computed: Any, expected: Any, bound: float) -> Record:
    """The largest error of any array of a tree, each relative to its largest entry."""
    errors = {}
    for (path, a), b in zip(jax.tree.leaves_with_path(computed), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.abs(b).max()
        errors[jax.tree_util.keystr(path)] = np.abs(a - b).max() / (scale or 1.0)
    worst = max(errors, key=lambda path: errors[path] if np.isfinite(errors[path]) else np.inf)
    return check(name, precision, errors[worst], bound, worst if len(errors) > 1 else "")


def evaluate(device: Any, precision: Precision, function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function of arrays gives on a device, read from it."""
    with jax.default_device(device), jax.default_matmul_precision(precision.products):
        return jax.device_get(jax.jit(function)(*jax.device_put(inputs, device)))


class Place(NamedTuple):
    """Where it is computed and what it is compared with."""

    device: Any
    cpu: Any
    kernel: Kernel  # the device's choice


def compared(
    name: str, place: Place, bounds: Bounds, function: Any, *inputs: Any, attends: bool = False
) -> Iterator[Record]:
    """A function of kernel, dtype and arrays on the device, against XLA's float32 on the CPU.

    Each precision in turn; where the function attends, with cuDNN too if the device has it.
    """
    expected = evaluate(place.cpu, EXACT, partial(function, "xla", "float32"), *inputs)
    for precision, bound in bounds.items():
        fused = attends and place.kernel == "cudnn" and precision is BFLOAT16
        for kernel in ("xla", "cudnn") if fused else ("xla",):
            computed = evaluate(place.device, precision, partial(function, kernel, precision.dtype), *inputs)
            named = f"{name}, {kernel}" if attends else name
            yield compare(named, precision.name, computed, expected, bound)


def check_token_logps(place: Place, sizes: Sizes, rng: np.random.Generator) -> Iterator[Record]:
    """Values, and gradients for hidden states and head."""
    rows, vocabulary, width = 4, sizes.shape.vocabulary, sizes.shape.d_model
    hidden = rng.normal(size=(rows, sizes.time, width)).astype(np.float32)
    head = (2 * width**-0.5 * rng.normal(size=(vocabulary, width))).astype(np.float32)
    predictor = rng.integers(-1, sizes.time, (rows, sizes.time)).astype(np.int32)
    targets = rng.integers(0, vocabulary, predictor.shape).astype(np.int32)
    weight = rng.normal(size=predictor.shape).astype(np.float32)

    # Inputs are numbers of bfloat16 in either precision: the error is that of the computation.
    hidden, head = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (hidden, head))

    def forward(_: Kernel, dtype: str, hidden: Any, head: Any, predictor: Any, targets: Any) -> Any:
        return token_logps(hidden.astype(dtype), head.astype(dtype), predictor, targets)

    def gradients(kernel: Kernel, dtype: str, hidden: Any, head: Any, weight: Any, *rest: Any) -> Any:
        def of(hidden: Any, head: Any) -> Any:
            return (weight * forward(kernel, dtype, hidden, head, *rest)).sum()

        return dict(zip(("hidden", "head"), jax.grad(of, (0, 1))(hidden, head), strict=True))

    inputs = (hidden, head, predictor, targets)
    yield from compared("token_logps", place, TOKEN_LOGPS, forward, *inputs)
    inputs = (hidden, head, weight, predictor, targets)
    yield from compared("token_logps, gradients", place, TOKEN_LOGPS_GRADIENTS, gradients, *inputs)


def check_attention(place: Place, sizes: Sizes, rng: np.random.Generator) -> Iterator[Record]:
    """Each kernel on tree masks, part of a row and a whole row padded: forward and gradients."""
    shape = sizes.shape
    scale = shape.head_dim**-0.5
    for length in sizes.lengths:
        trees = synthetic_trees(shape.vocabulary, length // 5, rng)
        batch = packed(trees, length, 3, question=True, empty=1)
        mask = np.asarray(tree_mask(jnp.asarray(batch.tree_id), jnp.asarray(batch.branch_id)))
        queries, keys, values, cotangent = (
            np.asarray(
                jnp.asarray(rng.normal(size=(4, length, heads, shape.head_dim)), jnp.bfloat16), np.float32
            )
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
        )

        def run(kernel: Kernel, dtype: str, mask: Any, cotangent: Any, *arrays: Any) -> Any:
            seen = mask.any(-1)[..., None, None]
            given = [x.astype(dtype) for x in arrays]
            mixed, pull = jax.vjp(lambda q, k, v: attend(q, [(k, v, mask)], scale, kernel=kernel), *given)
            # What padding gives is nobody's concern, but that it is finite: times 0 only NaN is left of it.
            result = {"output": jnp.where(seen, mixed, 0 * mixed)}
            gradients = pull(jnp.where(seen, cotangent, 0).astype(dtype))
            return result | dict(zip(("queries", "keys", "values"), gradients, strict=True))

        inputs = (mask, cotangent, queries, keys, values)
        assert can_use_cudnn(jnp.bfloat16, shape.head_dim, [length] * 2)
        yield from compared(f"attention, {length}", place, ATTENTION, run, *inputs, attends=True)


def sharp_model(shape: ModelShape) -> tuple[Model, Params]:
    """A random model that is sure enough of its next token for scores to be apart."""
    model = Model(shape)
    params = model.init(jax.random.key(0))
    return model, jax.device_get(params | {"embedding": 3 * params["embedding"]})


def check_model(place: Place, sizes: Sizes, rng: np.random.Generator) -> Iterator[Record]:
    """Logits, and PretrainRL's loss with the gradient of every parameter."""
    shape = sizes.shape
    _, params = sharp_model(shape)
    tokens = rng.integers(0, shape.vocabulary, (4, sizes.time)).astype(np.int32)
    trees = synthetic_trees(shape.vocabulary, sizes.time // 5, rng)
    batch = packed(trees, sizes.time, 3, question=True, empty=1)

    def logits(kernel: Kernel, dtype: str, params: Any, tokens: Any) -> Any:
        return Model(replace(shape, dtype=dtype), kernel=kernel).logits(params, tokens)

    def loss(kernel: Kernel, dtype: str, params: Any, batch: PackedBatch) -> Any:
        model = Model(replace(shape, dtype=dtype), kernel=kernel)

        def of(params: Any) -> Any:
            logps, _ = target_logps(model, params, batch)
            return total_loss(logps, batch, PRETRAINRL, count(batch))[0]

        value, gradient = jax.value_and_grad(of)(params)
        return {"loss": value, "gradient": gradient}

    yield from compared("logits", place, LOGITS, logits, params, tokens, attends=True)
    yield from compared("loss and gradient", place, GRADIENTS, loss, params, batch, attends=True)


def differing(name: str, different: np.ndarray, compared: np.ndarray) -> Record:
    """The share of the places that were compared where two devices differ; half of all must have been."""
    note = f"{int(compared.sum())} of {compared.size} compared"
    if 2 * compared.sum() < compared.size:
        return check(name, EXACT.name, np.nan, 0.0, note + ": too few")
    return check(name, EXACT.name, (different & compared).sum() / compared.sum(), 0.0, note)


def apart(logps: np.ndarray) -> np.ndarray:
    """Where scores [batch, beams] are further than `GAP` from those before and after them."""
    far = np.abs(np.diff(logps, axis=1)) > GAP
    edge = np.ones((len(logps), 1), bool)
    return np.concatenate([edge, far], 1) & np.concatenate([far, edge], 1) & np.isfinite(logps)


def check_decoding(place: Place, sizes: Sizes, rng: np.random.Generator) -> Iterator[Record]:
    """Beam search, greedy sampling, and drawing from given logits, all in exact float32."""
    shape, (model, params) = sizes.shape, sharp_model(sizes.shape)
    prompts = rng.integers(0, shape.vocabulary, (8, 16)).astype(np.int32)
    lengths = rng.integers(9, 17, 8).astype(np.int32)
    ends = rng.random(shape.vocabulary) < 0.05  # so that some beams end

    def beams(*inputs: Any) -> DecodedBatch:
        return beam_search(model, *inputs, beams=8, max_new_tokens=6, batch=4)  # others wait

    computed, expected = (evaluate(d, EXACT, beams, params, prompts, lengths, ends) for d in place[:2])
    scores = [np.where(np.isfinite(x.logps), x.logps, 0) for x in (computed, expected)]
    yield compare("beam search, scores", EXACT.name, *scores, SCORES)
    different = (computed.tokens != expected.tokens).any(-1) | (computed.finished != expected.finished)
    yield differing("beam search, beams", different, apart(expected.logps))

    full_lengths = np.full(8, prompts.shape[1], np.int32)
    steps = 16

    def greedy(params: Any, prompts: Any, full_lengths: Any) -> DecodedBatch:
        keys = prompt_keys(jnp.uint32(0), jnp.arange(8))
        never = jnp.zeros(shape.vocabulary, bool)
        chances = {"temperature": jnp.float32(0), "top_p": jnp.float32(1), "top_k": jnp.int32(0)}
        return sample(
            model, params, prompts, full_lengths, never, keys, samples=1, max_new_tokens=steps, **chances
        )

    computed, expected = (evaluate(d, EXACT, greedy, params, prompts, full_lengths) for d in place[:2])
    written = np.concatenate([prompts, expected.tokens[:, 0]], 1)
    logits = evaluate(place.cpu, EXACT, model.logits, params, written)[:, prompts.shape[1] - 1 : -1]
    top = np.sort(logits, -1)[..., -2:]
    sure = np.logical_and.accumulate(top[..., 1] - top[..., 0] > GAP, axis=1)  # after a tie all may differ
    yield differing("greedy sampling, tokens", (computed.tokens != expected.tokens)[:, 0], sure)

    keys = jax.random.split(jax.random.key(1), (8, 4))
    numbers = evaluate(place.device, EXACT, uniform, keys), evaluate(place.cpu, EXACT, uniform, keys)
    yield compare("random numbers", EXACT.name, *numbers, 0.0)
    given = np.repeat(logits[:, :1], 4, axis=1)  # [8, 4, vocabulary]
    drawn = [evaluate(d, EXACT, inverse_cdf, given, numbers[1])[0] for d in place[:2]]
    yield differing("draws", drawn[0] != drawn[1], np.ones((8, 4), bool))

    def kept(logits: Any) -> Any:
        return jnp.exp(filtered_logps(logits, 0.7, 0.9, 50))

    computed, expected = (evaluate(d, EXACT, kept, given) for d in place[:2])
    yield compare("top-k and top-p, probabilities", EXACT.name, computed, expected, PROBABILITIES)


def checks(place: Place, sizes: Sizes) -> Iterator[Record]:
    """All checks; one that raises fails, and those of its kind that were to follow are left out."""
    for kind in (check_token_logps, check_attention, check_model, check_decoding):
        try:
            yield from kind(place, sizes, np.random.default_rng(0))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            yield check(kind.__name__.removeprefix("check_"), "", np.nan, 0.0, reason)
