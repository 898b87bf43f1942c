"""Eight devices compute what one does, on every mesh and by any rules: losses, searches, samples, scores."""

import contextlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_results
from helpers.eight_devices import asked_meshes, distance, results
from helpers.mesh_results import BLOCKS, CHANCES, DTYPES, MESHES, ONE, TERMINATORS, UPDATES, WORDS
from helpers.models_and_trees import small_shape

from pretrainrl_jax.config import CheckpointConfig, MeshConfig
from pretrainrl_jax.decoding import decode as decoding
from pretrainrl_jax.decoding.decoded import Decoded
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives import scoring
from pretrainrl_jax.training import feed as feeds
from pretrainrl_jax.training.checkpoints import BEGINNING
from pretrainrl_jax.training.session import Run, Session
from pretrainrl_jax.training.step import TrainState
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.dataset import PackedRows

HEADS = ("tied", "untied")
KINDS = (*HEADS, "adapted")  # all parameters learn, or adapters alone
GAP = 1e-4  # of two beams' scores: closer ones may change places
# One rounding to bfloat16: what is summed in float32 in another order may fall to the next number.
ROUNDING = 2.0**-7


FAST = (ONE, "2x2x2")


def on(meshes: Iterable[str]) -> pytest.MarkDecorator:
    """A test on each of these meshes: all but one of eight devices are slow."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "mesh", [mesh if mesh in FAST else pytest.param(mesh, marks=slow) for mesh in meshes]
    )


each_mesh, each_mesh_and_one = on(MESHES), on([ONE, *MESHES])


@pytest.fixture(scope="module")
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each mesh computes that is asked about, and one device."""
    meshes = [ONE, *asked_meshes(request, MESHES)]
    return results(mesh_results, tmp_path_factory.mktemp("meshes") / "computed", *meshes)


# Training.


@pytest.mark.parametrize("kind", KINDS)
@each_mesh
def test_loss_and_gradient(computed: dict[str, Any], mesh: str, kind: str) -> None:
    """Of the whole PretrainRL loss: the untied model computes its layers anew in the backward pass."""
    ours, expected = computed[mesh]["training"][kind], computed[ONE]["training"][kind]
    assert expected["losses"][0] > 10
    np.testing.assert_allclose(ours["losses"][0], expected["losses"][0], rtol=1e-5)
    np.testing.assert_allclose(ours["norms"][0], expected["norms"][0], rtol=1e-5)
    assert distance(ours["gradient"], expected["gradient"]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@each_mesh
def test_a_training(computed: dict[str, Any], mesh: str, kind: str) -> None:
    """Several updates by the loop. Adam divides by small gradients: parameters differ more than gradients."""
    ours, expected = computed[mesh]["training"][kind], computed[ONE]["training"][kind]
    assert len(ours["losses"]) == UPDATES
    assert ours["row"] == expected["row"] == 8 * UPDATES
    np.testing.assert_allclose(ours["losses"], expected["losses"], rtol=1e-5)
    assert distance(ours["first"], expected["first"]) < 1e-4
    assert distance(ours["params"], expected["params"]) < 3e-4
    moved = distance(expected["params"], expected["first"])
    assert moved > 1e-2  # so that these bounds say something


@pytest.mark.parametrize("head", HEADS)
@each_mesh
def test_the_state_lies_as_is_said(computed: dict[str, Any], mesh: str, head: str) -> None:
    """The compiled step takes it so, gives it so, and updates it in place; so do the batch's rows lie."""
    lies = computed[mesh]["training"][head]["lies"]
    assert lies["takes"]
    assert lies["gives"]
    assert lies["is"]
    assert lies["rows"] == [(None, ("data", "fsdp", "expert"))]  # after the microsteps
    assert lies["numbers"]  # weights, schedule and figures are whole everywhere
    assert lies["alias bytes"] == lies["held bytes"] == lies["state bytes"]
    assert lies["given up"]
    specs = lies["specs"]
    model, vocabulary, heads, mlp = {
        "heads alone cut": (None, None, "tensor", None),
        "model axis over data": ("data", "tensor", None, "tensor"),
    }.get(mesh, ("fsdp", "tensor", "tensor", "tensor"))
    table, row = (vocabulary, model), (None, model)
    query = (None, model, heads, None)  # layers, model, heads, head
    expected = {
        "['embedding']": table,
        "['final_norm']['scale']": (model,),
        "['layers']['attention']['query']": query,
        "['layers']['attention']['key']": query,
        "['layers']['attention']['value']": query,
        "['layers']['attention']['out']": (None, heads, None, model),
        "['layers']['attention']['query_norm']['scale']": (None, None),
        "['layers']['attention']['key_norm']['scale']": (None, None),
        "['layers']['attention_norm']['scale']": row,
        "['layers']['mlp_norm']['scale']": row,
        "['layers']['mlp']['gate']": (None, model, mlp),
        "['layers']['mlp']['up']": (None, model, mlp),
        "['layers']['mlp']['down']": (None, mlp, model),
    } | ({"['head']": table} if head == "untied" else {})
    for part in (".params", ".opt_state[1].mu", ".opt_state[1].nu"):
        for name, spec in expected.items():
            assert specs.pop(f"{part}{name}") == spec, name
    assert specs == {".step": (), ".opt_state[1].count": ()}


@each_mesh
def test_a_state_of_adapters_lies_as_is_said(computed: dict[str, Any], mesh: str) -> None:
    """It has nothing else; what does not learn lies beside it, and is not given up."""
    lies = computed[mesh]["training"]["adapted"]["lies"]
    assert lies["takes"]
    assert lies["gives"]
    assert lies["is"]
    assert lies["numbers"]
    assert lies["alias bytes"] == lies["held bytes"] == lies["state bytes"]
    assert lies["given up"]
    model, heads, mlp = {
        "heads alone cut": (None, "tensor", None),
        "model axis over data": ("data", None, "tensor"),
    }.get(mesh, ("fsdp", "tensor", "tensor"))
    expected = {
        "['attention']['query_lora_a']": (None, model, None),
        "['attention']['query_lora_b']": (None, None, heads, None),
        "['attention']['out_lora_a']": (None, heads, None, None),
        "['attention']['out_lora_b']": (None, None, model),
        "['mlp']['gate_lora_a']": (None, model, None),
        "['mlp']['gate_lora_b']": (None, None, mlp),
        "['mlp']['down_lora_a']": (None, mlp, None),
        "['mlp']['down_lora_b']": (None, None, model),
    }
    parts = (".params", ".opt_state[1].mu", ".opt_state[1].nu")
    of_adapters = {f"{part}['layers']{name}": spec for part in parts for name, spec in expected.items()}
    assert lies["specs"] == {".step": (), ".opt_state[1].count": ()} | of_adapters


# Functions of the vocabulary.


@pytest.mark.parametrize("block", BLOCKS)
@each_mesh
def test_token_logps(computed: dict[str, Any], mesh: str, block: int) -> None:
    """Values and both gradients, where many tokens have the same target."""
    ours, expected = (computed[name]["functions"]["float32"][f"token_logps {block}"] for name in (mesh, ONE))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("block", BLOCKS)
@each_mesh
def test_token_logps_in_bfloat16(computed: dict[str, Any], mesh: str, block: int) -> None:
    """Sums are float32 here too, and gradients are rounded to bfloat16 when they are done."""
    ours, expected = (computed[name]["functions"]["bfloat16"][f"token_logps {block}"] for name in (mesh, ONE))
    np.testing.assert_allclose(ours[0], expected[0], rtol=0, atol=1e-5 * np.abs(expected[0]).max())
    for one, other in zip(ours[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=ROUNDING, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("block", WORDS)
@each_mesh
def test_bucket_logps(computed: dict[str, Any], mesh: str, block: int) -> None:
    """Kept tokens and the rest lie on different devices; some states have fewer kept tokens."""
    name = f"bucket_logps {block}"
    ours, expected = (computed[of]["functions"]["float32"][name] for of in (mesh, ONE))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    ours, expected = (computed[of]["functions"]["bfloat16"][name] for of in (mesh, ONE))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=ROUNDING, atol=1e-4 * np.abs(other).max())


@each_mesh
def test_anchors(computed: dict[str, Any], mesh: str) -> None:
    """The base's probabilities on its text, and steps beside it: the first costs nothing."""
    ours, expected = computed[mesh]["anchored"], computed[ONE]["anchored"]
    np.testing.assert_array_equal(ours["tokens"], expected["tokens"])
    for name in ("logps", "rest"):
        np.testing.assert_allclose(ours[name], expected[name], rtol=0, atol=1e-5)
    assert len(ours["lines"]) == len(expected["lines"]) > 1
    assert abs(ours["lines"][0]["loss_anchor"]) <= 1e-6
    assert expected["lines"][-1]["loss_anchor"] > 1e-3
    for one, other in zip(ours["lines"], expected["lines"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["loss_anchor"] == pytest.approx(other["loss_anchor"], rel=1e-3, abs=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
@each_mesh_and_one
def test_greedy_tokens(computed: dict[str, Any], mesh: str, block: int) -> None:
    """Of equal logits the first one, wherever the others stand."""
    functions = computed[mesh]["functions"]
    assert functions["ties"].max() > 1
    for dtype in DTYPES:
        np.testing.assert_array_equal(functions[dtype][f"greedy_tokens {block}"], functions["greedy"])


@pytest.mark.parametrize("dtype", DTYPES)
@each_mesh
def test_embed(computed: dict[str, Any], mesh: str, dtype: str) -> None:
    """The same rows to the bit; their gradients are summed in float32, whatever was computed in."""
    ours, expected = (computed[name]["functions"][dtype]["embed"] for name in (mesh, ONE))
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_allclose(ours[1], expected[1], rtol=0, atol=1e-6 * np.abs(expected[1]).max())


# Searches, samples and scores. No mesh that cuts rows divides their batches.


def assert_same_beams(ours: list[list[Decoded]], expected: list[list[Decoded]]) -> None:
    """Scores are close everywhere, and beams the same wherever theirs are not."""
    compared = 0
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose([h.logp for h in one], [h.logp for h in other], rtol=1e-5, atol=GAP)
        scores = {h.logp for h in other}
        near = any(0 < abs(a - b) < GAP for a in scores for b in scores)
        if not near:
            assert [(h.tokens, h.finished) for h in one] == [(h.tokens, h.finished) for h in other]
            compared += 1
    assert compared >= 0.8 * len(expected)


@each_mesh
def test_beams(computed: dict[str, Any], mesh: str) -> None:
    """The vocabulary comes in several blocks, with a remainder."""
    expected = computed[ONE]["beams"]
    assert_same_beams(computed[mesh]["beams"], expected)
    assert {h.finished for beams in expected for h in beams} == {True, False}
    starts = {h.tokens[0] // 150 for beams in expected for h in beams if h.tokens}
    assert starts == {0, 1, 2, 3}  # every device finds some


@each_mesh_and_one
def test_beams_of_equal_score_go_by_their_token(computed: dict[str, Any], mesh: str) -> None:
    """Each row of the head stands twelve times, on every device: the beams have the first of equal tokens."""
    assert_same_beams(computed[mesh]["ties"], computed[ONE]["ties"])
    sizes = []
    for beams in computed[mesh]["ties"]:
        last = {(h.tokens[:-1], h.logp): [] for h in beams if not h.finished}
        for h in beams:
            if not h.finished:
                last[h.tokens[:-1], h.logp].append(h.tokens[-1])
        for tokens in last.values():
            equal = range(tokens[0] % mesh_results.DISTINCT, mesh_results.VOCABULARY, mesh_results.DISTINCT)
            assert tokens == [token for token in equal if token not in TERMINATORS][: len(tokens)]
            sizes.append(len(tokens))
    assert max(sizes) == mesh_results.BEAMS  # all over the vocabulary


@each_mesh
def test_prompts_that_begin_alike(computed: dict[str, Any], mesh: str) -> None:
    """What they begin with is read once, and lies whole on every device."""
    ours, expected = (computed[name]["begun"] for name in (mesh, ONE))
    assert_same_beams(ours["beams"], expected["beams"])
    drawn, wanted = ([*chain(*found["samples"])] for found in (ours, expected))
    assert [one.tokens for one in drawn] == [one.tokens for one in wanted]
    np.testing.assert_allclose([d.logp for d in drawn], [w.logp for w in wanted], rtol=1e-5, atol=GAP)
    scores = ([*chain(*found["scores"])] for found in (ours, expected))
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=GAP)
    judged = ([logp for logp, _ in found["judged"]] for found in (ours, expected))
    np.testing.assert_allclose(*judged, rtol=1e-5, atol=GAP)


@each_mesh
def test_beams_where_tokens_are_few(computed: dict[str, Any], mesh: str) -> None:
    """More beams than a device has tokens, and than there are at all; the last few questions go on alone."""
    expected = computed[ONE]["few"]
    assert_same_beams(computed[mesh]["few"], expected)
    assert {len(beams) for beams in expected} == {mesh_results.MORE_BEAMS}


@pytest.mark.parametrize("chance", CHANCES)
@each_mesh
def test_samples(computed: dict[str, Any], mesh: str, chance: str) -> None:
    """The same draws to the token."""
    ours, expected = ([*chain(*computed[name]["samples"][chance])] for name in (mesh, ONE))
    for one, other in zip(ours, expected, strict=True):
        assert (one.tokens, one.finished) == (other.tokens, other.finished)
        assert one.logp == pytest.approx(other.logp, abs=GAP, rel=1e-5)
        assert one.behaviour_logp == pytest.approx(other.behaviour_logp, abs=GAP, rel=1e-5)
    distinct = {sample.tokens for sample in expected}
    assert len(distinct) > (10 if chance == "greedy" else 20)


@on(["1x8x1", "2x2x2", "model axis over data"])
def test_decoding_from_a_copy_of_the_weights_is_the_same(computed: dict[str, Any], mesh: str) -> None:
    beams, samples = computed[mesh]["copied"]
    assert_same_beams(beams, computed[ONE]["beams"])
    expected = [*chain(*computed[ONE]["samples"]["top-p"])]
    assert [one.tokens for one in chain(*samples)] == [one.tokens for one in expected]


@each_mesh
def test_beams_among_known_answers(computed: dict[str, Any], mesh: str) -> None:
    """Prompts have the first set and the second in turn; of the second, all come."""
    ours, expected = computed[mesh]["among"], computed[ONE]["among"]
    assert_same_beams(ours, expected)
    for number, beams in enumerate(ours):
        known = {*mesh_results.known_answers()[number % 2]}
        assert {beam.tokens for beam in beams} <= known
        assert all(beam.finished for beam in beams)
        assert len(beams) == min(mesh_results.BEAMS, len(known))


@each_mesh
def test_scores(computed: dict[str, Any], mesh: str) -> None:
    ours, expected = computed[mesh]["scores"], computed[ONE]["scores"]
    assert [len(scores) for scores in ours] == [len(scores) for scores in expected]
    np.testing.assert_allclose([*chain(*ours)], [*chain(*expected)], rtol=1e-5, atol=GAP)
    assert len({round(score, 3) for score in chain(*expected)}) > 100


@each_mesh
def test_judgements(computed: dict[str, Any], mesh: str) -> None:
    """What greedy decoding says counts as greedy on every mesh, and little else."""
    ours, expected = computed[mesh]["judged"], computed[ONE]["judged"]
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    np.testing.assert_allclose(
        [logp for logp, _ in ours], [logp for logp, _ in expected], rtol=1e-5, atol=GAP
    )
    prompts = mesh_results.prompts()
    assert sum(greedy for _, greedy in expected[: -len(prompts)]) > len(prompts) // 2
    assert not any(greedy for _, greedy in expected[-len(prompts) :])


# Compilations and transfers.


@each_mesh_and_one
def test_other_inputs_of_the_same_shapes_compile_nothing(computed: dict[str, Any], mesh: str) -> None:
    everything = computed[mesh]
    compiled = everything["compiled"] | {head: everything["training"][head]["compiled"] for head in HEADS}
    programs = {
        "decode": "beam_search",
        "begun": "beam_search",
        "decode few": "beam_search",
        "draw": "sample",
        "among": "beam_search",
        "score_trees": "score_rows",
        "judge": "judge_rows",
        "tied": "train_step",
        "untied": "train_step",
    }
    assert compiled.keys() == programs.keys()
    for name, (before, again) in compiled.items():
        assert f"jit({programs[name]})" in before
        assert again == [], name


@pytest.mark.parametrize("name", ["step", "decode", "draw", "score_trees"])
def test_inner_loops_refuse_what_was_not_placed(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under a transfer guard, a NumPy array where one of the devices' is wanted ends it.

    Training has a guard of its own; the others take a notebook's NumPy parameters unless the caller guards.
    """
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    model = Model(small_shape(vocabulary=mesh_results.VOCABULARY), mesh)
    trees, ends = mesh_results.trees(5), np.zeros(100, bool)

    def step(state: TrainState, batch: PackedBatch, *_: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        names = ("loss", "grad_norm", "skipped", "questions", "tokens")
        return state._replace(step=state.step + 1), dict.fromkeys(names, 0.0 * batch.tokens.sum())

    @jax.jit
    def read(x: jax.Array) -> jax.Array:
        return x + 1

    def train() -> None:
        run = Run(tmp_path, "train/x", checkpoint=CheckpointConfig(every_minutes=0.0))
        source = PackedRows(trees, mesh_results.ROW_LENGTH, seed=0, passes=1, rows=1)
        state = TrainState(jnp.int32(0), {}, ())
        feed = feeds.Feed(source, mesh)
        with Session(run, jax.jit(step), state, BEGINNING, feed, mesh, source.batches) as session:
            for batch in feed:
                session.step(batch, mesh_results.COEFFICIENTS, mesh_results.SCHEDULE)

    def search() -> None:
        decoding.decode(model, {}, [[1, 2]], ends, beams=1, max_new_tokens=1, batch=1)

    def sample() -> None:
        chance = mesh_results.CHANCES["plain"]
        decoding.sample_batch(
            model, {}, [[1, 2]], ends, samples=1, max_new_tokens=1, seed=0, batch=1, **chance
        )

    def score() -> None:
        def engine(model: Model, params: Params, batch: PackedBatch, earlier: None) -> jax.Array:
            return read(batch.branch_reference)

        scoring.score_trees(model, {}, trees, row_length=mesh_results.ROW_LENGTH, rows=1, engine=engine)

    for search_of in ("beam_search", "sample"):
        monkeypatch.setattr(decoding, search_of, lambda model, params, prompts, *_, **__: read(prompts))
    monkeypatch.setattr(decoding, "read_decoded", lambda *_: [[]])
    inner = {"step": train, "decode": search, "draw": sample, "score_trees": score}[name]

    def call() -> None:
        with contextlib.nullcontext() if name == "step" else jax.transfer_guard("disallow"):
            inner()

    call()
    monkeypatch.setattr(feeds, "place_local_rows", lambda x, *_: x)
    monkeypatch.setattr(decoding, "place_rows", lambda x, *_: x)
    monkeypatch.setattr(scoring, "place_rows", lambda x, *_: x)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        call()
