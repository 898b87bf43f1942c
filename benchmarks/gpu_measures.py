"""What gpu.py measures: training, mining, sampling and the loss over the vocabulary, on synthetic tokens."""

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.config import MeshConfig, OptimizerConfig
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.decoding.sampling import prompt_keys, sample
from pretrainrl_jax.model.attention import Kernel, tree_mask
from pretrainrl_jax.model.cost import flops
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import make_mesh, row_sharding
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.objectives.loss import Coefficients, asks
from pretrainrl_jax.objectives.token_logps import token_logps
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state, state_shardings
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.packing import capacity, pack, plan
from pretrainrl_jax.trees.tree import AnswerTree, Branch, chosen_only, document

Record = dict[str, Any]

PRETRAINRL: Coefficients = {"ntp": {"question": 1.0, "answer": 1.0}, "dpo": {"weight": 1.0, "beta": 0.1}}
ANSWERS: Coefficients = {"ntp": {"answer": 1.0}}
ENOUGH = 1.02  # what a larger batch must gain for a still larger one to be tried
GIB = 2**30


class Work(NamedTuple):
    """Sizes of everything that is measured; those in tuples are tried in turn."""

    shape: ModelShape
    row_length: int  # of rows of trees
    rows: tuple[int, ...]  # of an update
    document: int  # tokens of a pretraining row
    documents: tuple[int, ...]  # an update
    questions: tuple[int, ...]  # mined at a time
    beams: int
    answer: int  # tokens of a beam
    prefix: int  # tokens of a sampled prompt
    samples: int
    continuation: int  # tokens of a sample
    blocks: tuple[int, ...]  # of vocabulary rows
    square: int  # side of the matrices whose product is the device's rate


_QWEN = ModelShape(
    "qwen3", 151936, 2048, 28, 16, 8, 128, 6144, 1e6, 1e-6, tied=True, dtype="bfloat16", remat="full"
)
_CORE = ModelShape("qwen3", 151936, 256, 4, 4, 2, 64, 768, 1e6, 1e-6, tied=True)
_TINY = ModelShape("qwen3", 301, 32, 2, 4, 2, 8, 48, 1e6, 1e-6, tied=True, dtype="bfloat16")
_BLOCKS, _QUESTIONS = (1024, 2048, 4096, 8192, 16384, 32768), (16, 32, 64, 128, 256, 512, 1024)
WORKS = {
    "qwen3-1.7b": Work(
        _QWEN, 512, (16, 32, 64, 128), 4096, (2, 4, 8), _QUESTIONS, 20, 8, 1920, 16, 128, _BLOCKS, 8192
    ),
    "core": Work(_CORE, 512, (4, 8), 4096, (1,), (16, 32), 20, 8, 1920, 16, 128, _BLOCKS[:3], 2048),
    "tiny": Work(_TINY, 128, (2,), 256, (1,), (2, 4), 3, 4, 24, 2, 4, (128,), 128),
}


def synthetic_trees(vocabulary: int, count: int, rng: np.random.Generator) -> list[AnswerTree]:
    """Trees of random tokens with lengths as PopQA's have: 1 + 5 answers, each with a terminator."""

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, vocabulary, rng.integers(low, high + 1)).tolist())

    def branch(number: int) -> Branch:
        drawn = tokens(2, 4)
        return Branch(
            drawn, "rejected" if number else "chosen", reference_logp=-len(drawn) * float(np.log(vocabulary))
        )

    return [AnswerTree(str(i), tokens(9, 17), tuple(map(branch, range(6)))) for i in range(count)]


def packed(
    trees: list[AnswerTree], row_length: int, rows: int, *, question: bool, empty: int = 0
) -> PackedBatch:
    """The first rows of a plan over these trees, then empty ones, [rows + empty, …]."""
    sizes = [size(tree, question=question) for tree in trees]
    planned = plan([tree_size.time for tree_size in sizes], row_length)[:rows]
    assert len(planned) == rows, f"{len(trees)} trees fill {len(planned)} rows"
    laid = [[trees[i] for i in row] for row in planned] + [[]] * empty
    return pack(laid, capacity(sizes, planned, row_length), question=question)


def attempt(name: str, sizes: str, device: Any, measure: Callable[[], Record]) -> Record:
    """A record of what was measured, or of why it was not, so that the others go on."""
    record: Record = {"kind": "measure", "name": name, "size": sizes}
    try:
        record |= measure()
    except Exception as error:
        if any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")):
            record["failed"] = "out of memory"
        else:
            traceback.print_exc()
            record["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    gc.collect()
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return record | {"peak_gib": peak and peak / GIB}


def ladder(sizes: tuple[int, ...], measure: Callable[[int], Record]) -> Iterator[Record]:
    """Larger and larger sizes, until one fails or gains little; gives the best one's size."""
    best, rate = sizes[0], 0.0
    for candidate in sizes:
        record = measure(candidate)
        yield record
        candidate_rate = record.get("rate", 0.0)
        enough = candidate_rate > ENOUGH * rate
        if candidate_rate > rate:
            best, rate = candidate, candidate_rate
        if not enough:
            break
    return best


def timed(run: Callable[[], Any], repeats: int) -> Record:
    """Seconds of the first run, which compiles, and of those after a second one."""
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return {"compile_seconds": seconds[0], "seconds": seconds[2:], "median": statistics.median(seconds[2:])}


def product_rate(side: int, dtype: str, precision: str | None, device: Any, repeats: int) -> float:
    """FLOP/s of a square matrix product on the device, ten at a time."""
    a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in (0, 1))
    a, b = jax.device_put((a, b), device)
    multiply = jax.jit(partial(jnp.matmul, precision=precision))
    return 10 * 2 * side**3 / timed(lambda: [multiply(a, b) for _ in range(10)][-1], repeats)["median"]


def products(work: Work, device: Any, repeats: int) -> Iterator[Record]:
    """The device's matrix-product rates; gives the one of the model's compute dtype."""
    rates = {}
    for name, dtype, precision in (
        ("bfloat16", "bfloat16", None),
        ("float32", "float32", None),  # TF32 where the device has it
        ("float32, highest", "float32", "highest"),
    ):

        def measure(dtype: str = dtype, precision: str | None = precision) -> Record:
            return {"flops_per_second": product_rate(work.square, dtype, precision, device, repeats)}

        record = attempt(f"matrix product, {name}", f"{work.square} squared", device, measure)
        rates[name] = record.get("flops_per_second")
        yield record
    return rates[work.shape.dtype]


def counted(shape: ModelShape, batch: PackedBatch) -> Record:
    """Of packed rows [rows, …]: questions, tokens without padding, and the model's training FLOPs on them.

    The head is counted for the hidden states that predict something, attention over visible tokens;
    recomputation is not counted.
    """
    tokens = int((batch.tree_id > 0).sum())
    sources = sum(len(np.unique(row[row >= 0])) for row in batch.source_index)
    visible = int(jax.jit(lambda *ids: tree_mask(*ids).sum())(batch.tree_id, batch.branch_id))
    cost = flops(shape, visible / tokens)
    operations = 3 * (tokens * (cost.layers + cost.attention) + sources * cost.head)
    return {"questions": int(batch.trees.sum()), "tokens": tokens, "flops": operations}


def updates(
    shape: ModelShape,
    kernel: Kernel,
    batch: PackedBatch,
    coefficients: Coefficients,
    scale: str,
    unit: str,
    device: Any,
    product: float | None,
    repeats: int,
) -> Record:
    """Training steps on one batch [rows, …], again and again: its loss must fall."""
    mesh, settings = make_mesh(MeshConfig(), [device]), OptimizerConfig()
    model = Model(shape, mesh, kernel)
    begin = jax.jit(
        lambda key: init_state(Model(shape).init(key), adamw(settings)),
        out_shardings=state_shardings(model, settings, mesh),
    )
    state, losses = begin(jax.random.key(0)), []
    step = compile_step(model, settings, scale, mesh)
    placed = jax.device_put(jax.tree.map(lambda x: x[None], batch), row_sharding(mesh, leading=1))
    schedule = Schedule(3e-5, 100, 0.03, 0.1)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, placed, coefficients, schedule)
        losses.append(metrics["loss"])
        return state

    record = counted(shape, batch) | timed(run, repeats)
    start, last = float(losses[0]), float(losses[-1])
    per_second = record["flops"] / record["median"]
    record |= {
        "rate": record[unit] / record["median"],
        "unit": f"{unit}/s",
        "tokens_per_second": record["tokens"] / record["median"],
        "fill": record["tokens"] / batch.tokens.size,
        "flops_per_second": per_second,
        "share": product and per_second / product,
        "loss": [start, last],
    }
    return record if last < start else record | {"failed": f"the loss went from {start:.6g} to {last:.6g}"}


def training(work: Work, kernel: Kernel, device: Any, repeats: int) -> Iterator[Record]:
    """Updates on PretrainRL's trees: rows until no more fit, the best with what else there is to compare."""
    product = yield from products(work, device, repeats)
    rng = np.random.default_rng(0)
    trees = synthetic_trees(work.shape.vocabulary, max(work.rows) * work.row_length // 10, rng)

    def measure(name: str, kernel: Kernel, coefficients: Coefficients, rows: int) -> Record:
        def run() -> Record:
            compared = "dpo" in coefficients
            seen = trees if compared else [chosen_only(tree) for tree in trees]
            batch = packed(seen, work.row_length, rows, question=asks(coefficients))
            return updates(
                work.shape, kernel, batch, coefficients, "sequence", "questions", device, product, repeats
            )

        return attempt(f"training, {name}, {kernel}", f"{rows} rows of {work.row_length}", device, run)

    best = yield from ladder(work.rows, partial(measure, "PretrainRL", kernel, PRETRAINRL))
    yield measure("NTP of answers", kernel, ANSWERS, best)
    if kernel != "xla":
        yield measure("PretrainRL", "xla", PRETRAINRL, best)


def pretraining(work: Work, kernel: Kernel, device: Any, repeats: int) -> Iterator[Record]:
    """Updates on rows that one document fills."""
    product = yield from products(work, device, repeats)
    rng = np.random.default_rng(0)

    def measure(kernel: Kernel, rows: int) -> Record:
        def run() -> Record:
            tokens = rng.integers(0, work.shape.vocabulary, (rows, work.document + 1))
            trees = [document(str(i), tuple(row.tolist()), None) for i, row in enumerate(tokens)]
            batch = packed(trees, work.document, rows, question=False)
            return updates(work.shape, kernel, batch, ANSWERS, "token", "tokens", device, product, repeats)

        return attempt(f"pretraining, {kernel}", f"{rows} rows of {work.document}", device, run)

    best = yield from ladder(work.documents, partial(measure, kernel))
    if kernel != "xla":
        yield measure("xla", best)


def _params(model: Model, dtype: str, device: Any) -> Params:
    init = jax.jit(lambda key: jax.tree.map(lambda x: x.astype(dtype), model.init(key)))
    return init(jax.device_put(jax.random.key(0), device))


def mining(work: Work, kernel: Kernel, device: Any, repeats: int) -> Iterator[Record]:
    """Beam search: more and more questions at a time. No beam ends early, so that all steps run."""
    model, rng = Model(work.shape, kernel=kernel), np.random.default_rng(0)
    ends = jax.device_put(np.zeros(work.shape.vocabulary, bool), device)

    def measure(dtype: str, params: Params, questions: int) -> Record:
        def run() -> Record:
            lengths = rng.integers(9, 18, questions).astype(np.int32)
            prompts = rng.integers(0, work.shape.vocabulary, (questions, bucket(17))).astype(np.int32)
            inputs = jax.device_put((prompts, lengths), device)
            search = partial(beam_search, model, params, *inputs, ends)
            timing = timed(lambda: search(beams=work.beams, max_new_tokens=work.answer), repeats)
            return timing | {"rate": questions / timing["median"], "unit": "questions/s"}

        named = f"{questions} questions, {work.beams} beams x {work.answer}"
        return attempt(f"mining, {dtype} parameters", named, device, run)

    params = _params(model, "float32", device)  # as the stages hold them
    best = yield from ladder(work.questions, partial(measure, "float32", params))
    del params
    if work.shape.dtype != "float32":
        yield measure(work.shape.dtype, _params(model, work.shape.dtype, device), best)


def sampling(work: Work, kernel: Kernel, device: Any, repeats: int) -> Iterator[Record]:
    """Many samples of one prompt beside one, prefill included. None ends early, so that all steps run."""
    model, vocabulary = Model(work.shape, kernel=kernel), work.shape.vocabulary
    prompts = np.random.default_rng(0).integers(0, vocabulary, (1, work.prefix)).astype(np.int32)
    inputs = (prompts, np.full(1, work.prefix, np.int32), np.zeros(vocabulary, bool))
    *inputs, keys = jax.device_put((*inputs, prompt_keys(np.uint32(0), np.zeros(1, int))), device)
    chances = {"temperature": np.float32(1), "top_p": np.float32(1), "top_k": np.int32(0)}
    for dtype in dict.fromkeys(("float32", work.shape.dtype)):
        params, taken = _params(model, dtype, device), {}
        for samples, tokens in ((1, 1), (1, work.continuation), (work.samples, work.continuation)):

            def run(params: Any = params, samples: int = samples, tokens: int = tokens) -> Record:
                draw = partial(sample, model, params, *inputs, keys, **chances)
                timing = timed(lambda: draw(samples=samples, max_new_tokens=tokens), repeats)
                return timing | {"rate": samples * tokens / timing["median"], "unit": "tokens/s"}

            name = f"{samples} x {tokens} after {work.prefix}"
            record = attempt(f"sampling, {dtype} parameters", name, device, run)
            taken[samples, tokens] = record.get("median")
            one = taken.get((1, work.continuation))
            if samples > 1 and one and "median" in record:
                record["times_one"] = record["median"] / one
            yield record
        del params, run


def head(work: Work, kernel: Kernel, device: Any, repeats: int) -> Iterator[Record]:
    """`token_logps`, forward and backward, by the number of vocabulary rows taken at a time."""
    product = yield from products(work, device, repeats)
    rows, time, s = min(work.rows), work.row_length, work.shape
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.random.normal(keys[0], (rows, time, s.d_model), s.dtype)
    table = 0.05 * jax.random.normal(keys[1], (s.vocabulary, s.d_model), s.dtype)
    targets = jax.random.randint(keys[2], (rows, time), 0, s.vocabulary)
    predictor = jnp.broadcast_to(jnp.arange(time), (rows, time))
    inputs = jax.device_put((states, table, predictor, targets), device)
    operations = 3 * 2 * rows * time * s.vocabulary * s.d_model

    def measure(block: int) -> Record:
        def run() -> Record:
            run = jax.jit(jax.grad(lambda *arrays: token_logps(*arrays, block=block).sum(), (0, 1)))
            timing = timed(lambda: run(*inputs), repeats)
            per_second = operations / timing["median"]
            share = product and per_second / product
            timing |= {"rate": rows * time / timing["median"], "unit": "tokens/s"}
            return timing | {"flops_per_second": per_second, "share": share}

        return attempt("token_logps and gradients", f"blocks of {block}, {rows} x {time}", device, run)

    yield from map(measure, work.blocks)


MEASURES: Mapping[str, Callable[[Work, Kernel, Any, int], Iterator[Record]]] = {
    "training": training,
    "mining": mining,
    "sampling": sampling,
    "pretraining": pretraining,
    "head": head,
}
