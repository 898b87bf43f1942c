"""What a small model computes on each mesh of eight devices, and on one.

Run as `python -m helpers.mesh_results FILE MESH…`: it simulates devices and writes to the file what
`test_meshes` compares. Training, searches, samples and scores run under a transfer guard, whole: nothing is
sent to the devices that is not asked for by name.
"""

import json
import math
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from helpers.models_and_trees import small_model

from pretrainrl_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from pretrainrl_jax.decoding import best_tokens, sampling
from pretrainrl_jax.decoding.constraints import build
from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.evaluation.continuations import judge, share
from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.lora import Lora, split
from pretrainrl_jax.model.mesh import Layout, Rules, make_mesh, replicated
from pretrainrl_jax.model.partitioning import parameter_shardings, place, place_rows
from pretrainrl_jax.model.vocabulary import ROWS, TABLE, embed
from pretrainrl_jax.model.whole import cuts_of
from pretrainrl_jax.objectives.bucketed import bucket_logps
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.objectives.token_logps import LOOKED_UP, greedy_tokens, token_logps
from pretrainrl_jax.stages.anchor import measure
from pretrainrl_jax.training.checkpoints import BEGINNING
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.session import Run, Session
from pretrainrl_jax.training.step import compile_step, init_sharded_state, state_shardings
from pretrainrl_jax.trees.anchors import AnchorBatch, AnchorRows, AnchorText, pack_anchors
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Role

ONE = "one device"
MESHES = {
    "8x1x1": ((8, 1, 1), Rules()),
    "1x8x1": ((1, 8, 1), Rules()),
    "2x1x4": ((2, 1, 4), Rules()),
    "2x2x2": ((2, 2, 2), Rules()),
    "heads alone cut": ((2, 2, 2), Rules(model=None, vocabulary=None, mlp=None)),
    "model axis over data": ((2, 2, 2), Rules(model="data", heads=None, kv_heads=None)),
}
VOCABULARY, WIDTH, BLOCK = 600, 64, 64  # of 600, 300 or 150 rows the block leaves a remainder
SHAPE: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    "d_model": WIDTH,
    "heads": 8,
    "kv_heads": 4,
    "d_ff": 96,
}
BLOCKS = (7, 64, 1000)  # of token_logps and greedy_tokens
WORDS = (32, 64, 992)  # of bucket_logps: whole words of bits
DTYPES = ("float32", "bfloat16")
SETTINGS = OptimizerConfig(clip=1e9)  # so that the first moments are the gradient
COEFFICIENTS = {
    "ntp": {"question": 0.5, "answer": 2.0, "answer_mean": 0.4},
    "dpo": {"weight": 0.7, "beta": 0.3},
}
ANCHORED = {"ntp": {"answer": 1.0}, "anchor": {"weight": 2.0}}
SCHEDULE = Schedule(1e-2, 6, 0.3, 0.1)
UPDATES, ROW_LENGTH = 5, 48
TERMINATORS, END = (3, 177, 450), 599
BATCH = 5  # of prompts and rows, which no mesh of several row shards divides
LIMIT, BEAMS, SAMPLES = 5, 6, 3
DISTINCT = 50  # rows of a head with ties
FEW, MORE_BEAMS = 8, 12  # a vocabulary with fewer tokens than beams
MANY = 64  # prompts at a time, of which each device has enough to leave the last few alone
CHANCES = {
    "plain": {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
    "top-p": {"temperature": 0.8, "top_p": 0.9, "top_k": 0},
    "top-k": {"temperature": 1.5, "top_p": 1.0, "top_k": 20},
    "greedy": {"temperature": 0.0, "top_p": 1.0, "top_k": 0},
}

Found = dict[str, Any]
guarded = partial(jax.transfer_guard, "disallow")


def trees(number: int, seed: int = 0) -> list[AnswerTree]:
    """Questions of tokens from all over the vocabulary, with 0 to 4 negatives and references."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, END, rng.integers(low, high + 1)).tolist())

    def branch(role: Role) -> Branch:
        return Branch((*tokens(1, 3), END), role, reference_logp=-float(rng.uniform(3, 12)))

    return [
        AnswerTree(
            str(i), tokens(1, 7), (branch("chosen"), *(branch("rejected") for _ in range(rng.integers(0, 5))))
        )
        for i in range(number)
    ]


@cache
def prompts(number: int = 11, seed: int = 0, vocabulary: int = VOCABULARY) -> list[list[int]]:
    """Prompts of 1 to 16 tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(1, 17)).tolist() for _ in range(number)]


def marked(tokens: tuple[int, ...], vocabulary: int = VOCABULARY) -> np.ndarray:
    """Terminators as the searches take them."""
    mask = np.zeros(vocabulary, bool)
    mask[list(tokens)] = True
    return mask


def known_answers() -> list[list[tuple[int, ...]]]:
    """Two sets of answers: many with six beginnings, and fewer than there are beams."""
    rng = np.random.default_rng(1)
    others = [t for t in range(VOCABULARY) if t not in TERMINATORS]
    many = rng.choice(others, (80, LIMIT - 1)).tolist()
    grown = [(others[90 * (n % 6)], *answer[: n % (LIMIT - 1)]) for n, answer in enumerate(many)]
    return [grown, [(9,), (9, 500), (599,)]]


def placed(model: Model, params: Params, layout: Layout) -> tuple[Model, Params]:
    """A model with its parameters on a mesh."""
    model = Model(model.shape, layout.mesh, rules=layout.rules)
    return model, jax.device_put(params, parameter_shardings(model, layout.mesh))


def with_ties(params: Params) -> Params:
    """A head in which each row stands twelve times, in every block and on every device.

    A row has one entry: equal rows have equal logits to the last bit, however a product is summed.
    """
    head = np.zeros((VOCABULARY, WIDTH), np.float32)
    head[np.arange(VOCABULARY), np.arange(VOCABULARY) % DISTINCT] = 1.0
    return params | {"head": jnp.asarray(head)}


# Compilations are counted: each a program that XLA was asked for.

COMPILED: list[str] = []


def count_compiled(event: str, seconds: float, **about: Any) -> None:
    if event.endswith("/backend_compile_duration"):
        COMPILED.append(about.get("fun_name", ""))


def compiles(function: Callable[[], Any]) -> list[str]:
    """What is compiled while the function runs."""
    COMPILED.clear()
    function()
    return list(COMPILED)


# The parts.


def functions(layout: Layout) -> Found:
    """token_logps, greedy_tokens and embed, and their gradients."""
    rng = np.random.default_rng(1)
    rows, time, targets = 8, 6, 9
    hidden = rng.normal(size=(rows, time, WIDTH))
    head = rng.normal(size=(VOCABULARY, WIDTH))
    source_index = rng.integers(-1, time, (rows, targets)).astype(np.int32)
    wanted = rng.integers(0, VOCABULARY, (rows, targets)).astype(np.int32)
    wanted[:, :4] = wanted[0, 0]  # the same target many times, on every device
    pulled = rng.normal(size=(rows, targets)).astype(np.float32)
    tokens = rng.integers(0, VOCABULARY, (rows, time)).astype(np.int32)
    tokens[:, ::2] = tokens[0, 0]
    lifted = rng.normal(size=(rows, time, WIDTH)).astype(np.float32)
    kept = np.argsort(rng.random((rows, time, VOCABULARY)))[..., :5].astype(np.int32)
    kept[..., 3:] = np.where(rng.random((rows, time, 2)) < 0.5, kept[..., 3:], -1)
    pushed = rng.normal(size=(rows, time, 5)), rng.normal(size=(rows, time))
    # Small whole numbers: logits are exact, and many are equal.
    coarse = rng.integers(-2, 3, (rows, time, WIDTH)), rng.integers(-1, 2, (VOCABULARY, WIDTH))

    on_rows, on_table = layout.sharding(*ROWS), layout.sharding(*TABLE)
    batch = [place(x, on_rows) for x in (source_index, wanted, pulled, tokens, lifted, kept)]
    batch += [place(x.astype(np.float32), on_rows) for x in pushed]

    @jax.jit
    def compute(
        hidden: jax.Array, head: jax.Array, coarse: tuple[jax.Array, jax.Array], batch: list[jax.Array]
    ) -> Found:
        source_index, wanted, pulled, tokens, lifted, kept, *pushed = batch
        computed: Found = {}
        for block in BLOCKS:
            fixed = {"source_index": source_index, "targets": wanted, "block": block}
            few = 2 * WIDTH if block == BLOCKS[0] else LOOKED_UP  # one or two targets at a time, or all
            with patch("pretrainrl_jax.objectives.token_logps.LOOKED_UP", few):
                values, pull = jax.vjp(partial(token_logps, layout=layout, **fixed), hidden, head)
                computed[f"token_logps {block}"] = (values, *pull(pulled))
            computed[f"greedy_tokens {block}"] = greedy_tokens(*coarse, block=block, layout=layout)
        for block in WORDS:
            of_bucket = partial(bucket_logps, block=block, layout=layout)
            values, pull = jax.vjp(lambda h, w, of=of_bucket: of(h, w, kept), hidden, head)
            computed[f"bucket_logps {block}"] = (*values, *pull(tuple(pushed)))
        # As the decoder does it: the table stays in float32, whatever is computed in.
        looked, pull = jax.vjp(lambda t: embed(t, tokens, hidden.dtype, layout), head.astype(jnp.float32))
        computed["embed"] = looked, *pull(lifted.astype(hidden.dtype))
        return computed

    computed = {}
    for dtype in DTYPES:
        arrays = [
            (
                place(np.asarray(h, jnp.dtype(dtype)), on_rows),
                place(np.asarray(w, jnp.dtype(dtype)), on_table),
            )
            for h, w in ((hidden, head), coarse)
        ]
        of_dtype = jax.device_get(compute(*arrays[0], tuple(arrays[1]), batch))
        computed[dtype] = jax.tree.map(lambda x: x.astype(np.float32), of_dtype)
    logits = coarse[0].astype(np.int64) @ coarse[1].T
    computed["greedy"] = logits.argmax(-1)
    computed["ties"] = (logits == logits.max(-1, keepdims=True)).sum(-1)
    return computed


class Recorded:
    """A compiled step that is compiled once, and keeps what the first step did."""

    def __init__(self, step: Any) -> None:
        self._step, self.compiled, self.first = step, None, None
        self.arguments: Any = None

    def lower(self, *arguments: Any) -> "Recorded":
        self.compiled = self._step.lower(*arguments).compile()
        return self

    def compile(self) -> "Recorded":
        return self

    def __call__(self, *arguments: Any) -> Any:
        self.arguments = arguments
        state, metrics = self.compiled(*arguments)
        if self.first is None:
            self.first = jax.device_get((state.opt_state[1].mu, state.params))
        return state, metrics


LORA = Lora(3, 6.0, ("query", "out", "gate", "down"))


def training(layout: Layout, kind: str) -> Found:
    """A short training by a session, of a model with a tied head or an untied one, or of adapters alone."""
    tied, lora = kind == "tied", LORA if kind == "adapted" else None
    model, params = small_model(tied=tied, remat="none" if tied else "full", lora=lora, **SHAPE)
    mesh: Any = layout.mesh
    model, params = placed(model, params, layout)
    frozen, _ = split(lora, params)
    source = PackedRows(trees(150), ROW_LENGTH, seed=1, passes=1, rows=8)
    assert source.batches == UPDATES
    step = Recorded(compile_step(model, SETTINGS, "sequence", mesh))

    def train(state: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), "train/x", checkpoint=CheckpointConfig(every_minutes=0.0))
            with guarded():
                feed = Feed(source, mesh)
                of = source.batches, frozen
                with Session(run, step, state, BEGINNING, feed, mesh, *of) as session:
                    for batch in feed:
                        session.step(batch, COEFFICIENTS, SCHEDULE)
                    state, progress = session.state, session.progress()
            lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        return state, progress, [json.loads(line) for line in lines]

    results: list[Any] = []
    states = [init_sharded_state(model, params, SETTINGS, mesh) for _ in range(2)]
    compiled = [compiles(lambda state=state: results.append(train(state))) for state in states]
    state, progress, lines = results[0]
    gradient, gradients = step.first
    return {
        "losses": [line["loss"] for line in lines],
        "norms": [line["grad_norm"] for line in lines],
        "row": progress.row,
        "gradient": jax.tree.map(lambda x: x / (1 - SETTINGS.beta1), gradient),
        "first": gradients,
        "params": jax.device_get(state.params),
        "compiled": compiled,
        "lies": lying(model, mesh, step, state),
    }


def lying(model: Model, mesh: Any, step: Recorded, state: Any) -> Found:
    """Where the state lies: as is said, as the compiled step takes and gives it, as it is."""
    said = state_shardings(model, SETTINGS, mesh)
    takes, _ = step.compiled.input_shardings
    gives = step.compiled.output_shardings
    ranks = jax.tree.map(lambda x: x.ndim, state)

    def same(one: Any, other: Any) -> bool:
        equal = jax.tree.map(lambda a, b, rank: a.is_equivalent_to(b, rank), one, other, ranks)
        return all(jax.tree.leaves(equal))

    everywhere = replicated(mesh)
    return {
        "specs": {jax.tree_util.keystr(path): tuple(s.spec) for path, s in jax.tree.leaves_with_path(said)},
        "takes": same(takes[0], said),
        "gives": same(gives[0], said),
        "is": same(jax.tree.map(lambda x: x.sharding, state), said),
        "rows": sorted({tuple(place.spec) for place in jax.tree.leaves(takes[1])}),
        "numbers": all(s.is_equivalent_to(everywhere, 0) for s in jax.tree.leaves((takes[2:4], gives[1]))),
        "state bytes": sum(
            x.dtype.itemsize * int(np.prod(place.shard_shape(x.shape)))
            for x, place in zip(jax.tree.leaves(state), jax.tree.leaves(said), strict=True)
        ),
        "alias bytes": step.compiled.memory_analysis().alias_size_in_bytes,
        "held bytes": sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)),
        "given up": all(x.is_deleted() for x in jax.tree.leaves(step.arguments[0])),
    }


def anchored(layout: Layout) -> Found:
    """Anchor text as the base model has it, and a few steps beside it."""
    model, params = small_model(tied=True, **SHAPE)  # every row of the table has a gradient
    mesh: Any = layout.mesh
    model, params = placed(model, params, layout)
    rng = np.random.default_rng(3)
    written = [tuple(rng.integers(1, END, length).tolist()) for length in rng.integers(2, 40, 11)]
    texts = [AnchorText(tokens) for tokens in written]
    rows = [texts[at : at + 1] for at in range(len(texts))] + [[]] * 5  # 16 rows divide over every mesh
    batch = pack_anchors(rows, ROW_LENGTH, 0)
    on_rows = AnchorBatch(*(place_rows(x, mesh) for x in batch))
    tokens, logps, rest = jax.device_get(measure(model, 6, params, on_rows))
    texts = [
        AnchorText(text.tokens, *(x[row, : len(text.reads)] for x in (tokens, logps, rest)))
        for row, text in enumerate(texts)
    ]
    source = PackedRows(trees(60), ROW_LENGTH, seed=1, passes=1, rows=8)
    beside = AnchorRows(texts, ROW_LENGTH, 5, 0, source.questions, 1)
    step = compile_step(model, SETTINGS, "sequence", mesh)
    state, lines = init_sharded_state(model, params, SETTINGS, mesh), []
    numbers = jax.tree.map(lambda x: place(np.float32(x), replicated(mesh)), (ANCHORED, SCHEDULE))
    for one in Feed(source, mesh, anchors=beside):
        state, metrics = step(state, one, *numbers)
        lines.append({name: float(value) for name, value in metrics.items()})
    return {"tokens": tokens[:11], "logps": logps[:11], "rest": rest[:11], "lines": lines}


def answers(layout: Layout) -> Found:
    """Beams and samples of prompts, and scores of trees."""
    model, params = small_model(sharpness=3.0, **SHAPE)
    tied = with_ties(params)
    few, of_few = small_model(sharpness=2.0, **(SHAPE | {"vocabulary": FEW}))
    (few, of_few), (_, tied), (model, params) = (
        placed(*parts, layout) for parts in ((few, of_few), (model, tied), (model, params))
    )
    ends, few_ends = marked(TERMINATORS), marked((2, 4, 5, 6), FEW)

    def search(params: Params, asked: list[list[int]], **more: Any) -> Any:
        with guarded():
            return decode(model, params, asked, ends, beams=BEAMS, max_new_tokens=LIMIT, batch=BATCH, **more)

    def search_few(asked: list[list[int]]) -> Any:
        with guarded():
            return decode(few, of_few, asked, few_ends, beams=MORE_BEAMS, max_new_tokens=10, batch=MANY)

    def begun(seed: int) -> Found:
        """Beams, samples, scores and judgements of prompts with two beginnings, one of them longer."""
        starts = [range(seed, seed + 40), range(seed + 100, seed + 145)]
        asked = [[*starts[n % 2], *prompt[:9]] for n, prompt in enumerate(prompts(40, seed))]
        endings = (Branch((5, 6, END)), Branch((7, END)))
        return {
            "beams": search(params, asked),
            "samples": sampled(asked, **CHANCES["top-p"]),
            "scores": score([AnswerTree(str(n), tuple(p), endings) for n, p in enumerate(asked)]),
            "judged": judged([(tuple(prompt), branch.tokens) for prompt in asked for branch in endings]),
        }

    def sampled(asked: list[list[int]], **chance: Any) -> Any:
        options = {"samples": SAMPLES, "max_new_tokens": LIMIT, "seed": 7, "batch": BATCH}
        with guarded():
            return sample_batch(model, params, asked, ends, **options, **chance)

    def score(trees: list[AnswerTree]) -> Any:
        with guarded():
            return score_trees(model, params, trees, row_length=ROW_LENGTH, rows=BATCH)

    def judged(pairs: list[Any]) -> Any:
        with guarded():
            return judge(model, params, share(pairs), tokens=BATCH * ROW_LENGTH)

    compiled: dict[str, tuple[list[str], list[str]]] = {}
    results: Found = {"compiled": compiled, "samples": {}}

    def keep(name: str, function: Callable[[], Any]) -> None:
        results[name] = function()

    later, few_later = prompts(9, seed=1), prompts(7, seed=1, vocabulary=FEW)
    compiled["decode"] = (
        compiles(lambda: keep("beams", lambda: search(params, prompts()))),
        compiles(lambda: (keep("ties", lambda: search(tied, prompts())), search(params, later))),
    )
    compiled["begun"] = (
        compiles(lambda: keep("begun", lambda: begun(0))),
        compiles(lambda: begun(1)),
    )
    compiled["decode few"] = (
        compiles(lambda: keep("few", lambda: search_few(prompts(MANY, vocabulary=FEW)))),
        compiles(lambda: search_few(few_later)),
    )
    if cuts_of(model).fsdp > 1:  # else nothing is copied
        copying = replace(model, room=math.inf)
        with guarded():
            same = {"max_new_tokens": LIMIT, "batch": BATCH}
            results["copied"] = (
                decode(copying, params, prompts(), ends, beams=BEAMS, **same),
                sample_batch(
                    copying, params, prompts(), ends, samples=SAMPLES, seed=7, **same, **CHANCES["top-p"]
                ),
            )
    plainest, *others = CHANCES

    def chances(names: Sequence[str]) -> None:
        results["samples"] |= {name: sampled(prompts(), **CHANCES[name]) for name in names}

    compiled["draw"] = (
        compiles(lambda: chances([plainest])),
        compiles(lambda: (chances(others), sampled(later, **CHANCES[plainest]))),
    )
    known = build(known_answers(), ends, few=4)

    def among(asked: list[list[int]]) -> Any:
        return search(params, asked, constraint=known, starts=[n % 2 for n in range(len(asked))])

    compiled["among"] = (
        compiles(lambda: keep("among", lambda: among(prompts()))),
        compiles(lambda: among(later)),
    )
    compiled["score_trees"] = (
        compiles(lambda: keep("scores", lambda: score(trees(60)))),
        compiles(lambda: score(trees(60)[::-1])),
    )
    drawn = zip(prompts(), results["samples"]["greedy"], strict=True)
    greedy = [(tuple(prompt), one.tokens) for prompt, (one, *_) in drawn if one.tokens]
    pairs = [*greedy, *((tuple(prompt), (1, 2)) for prompt in prompts())]
    compiled["judge"] = (
        compiles(lambda: keep("judged", lambda: judged(pairs))),
        compiles(lambda: judged(pairs[::-1])),
    )
    return results


def everything(layout: Layout) -> Found:
    """All parts."""
    return {
        "functions": functions(layout),
        "training": {name: training(layout, name) for name in ("tied", "untied", "adapted")},
        "anchored": anchored(layout),
        **answers(layout),
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.monitoring.register_event_duration_secs_listener(count_compiled)
    vocabulary.block_size = lambda model: BLOCK
    best_tokens.CPU_BLOCK = BLOCK
    sampling.BLOCK = BLOCK
    layouts = {
        name: Layout(make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)]), rules)
        for name, (sizes, rules) in {ONE: ((1, 1, 1), Rules()), **MESHES}.items()
    }
    computed = {name: everything(layouts[name]) for name in sys.argv[2:]}
    Path(sys.argv[1]).write_bytes(pickle.dumps(computed))
