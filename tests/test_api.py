"""The package from Python: what is loaded, and what is computed with it, against plain log-probabilities."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command_line import SYSTEMS, parameters, python
from helpers.models_and_trees import data, small_model, small_tokenizer

import pretrainrl_jax as prl
from pretrainrl_jax.config import WorldConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.trees.templates import ends_at

FACTS = make_world(WorldConfig(facts=60, relations=2, answers=8), seed=0)
QUESTIONS = [fact.question for fact in FACTS]
# Of different lengths; the last continuation joins its prompt's last word, so it is encoded apart.
LONG = "A much longer text, with a comma and 1,234 numbers. And"
PROMPTS = ["The", *QUESTIONS[:2], LONG, QUESTIONS[0][:2]]
CONTINUATIONS = [" a", " Florence", " several words nobody expects here", " x\nsecond line", QUESTIONS[0][2:]]


@pytest.fixture(scope="module")
def answering(finished: Path):
    """The tiny world's model, trained on answers."""
    return prl.load(finished / "checkpoints" / "train" / "ntp_answer")


@pytest.fixture(scope="module")
def stories():
    """A real language model."""
    return prl.load(data("models", "stories260K"))


def flat(params) -> dict[str, np.ndarray]:
    return {"/".join(k.key for k in path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (
        logits
        - logits.max(-1, keepdims=True)
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    )


def summed(loaded, prefix: tuple[int, ...], continuation: tuple[int, ...]) -> float:
    """log p(continuation | prefix) read off the logits of the whole text."""
    model, params, _ = loaded
    padded = np.zeros((1, 64), int)  # one length, one compilation: what follows a token changes nothing
    padded[0, : len(prefix + continuation)] = prefix + continuation
    logps = log_softmax(np.asarray(model.logits(params, padded)[0]))
    at = range(len(prefix) - 1, len(prefix) + len(continuation) - 1)
    return float(sum(logps[i, token] for i, token in zip(at, continuation, strict=True)))


# Loading.


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, pretrainrl_jax as prl; print(prl.__all__); print(hasattr(prl, 'train'));"
        "print([m for m in ('jax', 'flax', 'orbax', 'numpy', 'transformers', 'torch') if m in sys.modules])"
    )
    ran = python("-c", program)
    assert ran.out.splitlines() == ["['beam_search', 'load', 'sample', 'score']", "False", "[]"], ran.err


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_stage_and_its_step_are_the_same_model(system: str, finished: Path) -> None:
    stage = finished / "checkpoints" / "train" / system
    step = stage / str(checkpoints.latest_step(stage))
    expected = parameters(finished, f"train/{system}")
    for path in (stage, str(stage), step):
        model, params, tokenizer = prl.load(path)
        assert flat(params).keys() == expected.keys()
        for name, value in flat(params).items():
            assert value.dtype == np.float32
            assert value.tobytes() == expected[name].tobytes(), name
        assert model.shape.d_model == 32
        assert tokenizer.size == model.shape.vocabulary
        assert tokenizer.decode(tokenizer.encode(" Ünseen\ttext\n")) == " Ünseen\ttext\n"
        assert tokenizer.bos is None
        assert len(tokenizer.eos) == 1


def test_a_workdir_is_the_system_trained_last(finished: Path) -> None:
    _, params, _ = prl.load(finished)
    last = parameters(finished, f"train/{SYSTEMS[-1]}")
    assert all(value.tobytes() == last[name].tobytes() for name, value in flat(params).items())


def test_a_workdir_without_systems_is_the_base_model(workdir: Path) -> None:
    for system in SYSTEMS:
        for file in (workdir / "checkpoints" / "train" / system).glob("model.json"):
            file.unlink()
    base = parameters(workdir, "pretrain")
    assert all(value.tobytes() == base[name].tobytes() for name, value in flat(prl.load(workdir)[1]).items())


def test_a_hugging_face_folder(stories) -> None:
    model, params, tokenizer = stories
    assert (model.shape.family, model.shape.layers, model.shape.tied) == ("llama", 5, True)
    assert sum(x.size for x in jax.tree.leaves(params)) == 260_032
    assert model.shape.vocabulary == tokenizer.size == 512
    assert (tokenizer.bos, tokenizer.eos) == (1, (2,))  # generation_config.json states it


@pytest.mark.parametrize("name", ["none", "empty", "config only"])
def test_where_there_is_no_model_it_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "config only").mkdir()
    (tmp_path / "config only" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match=f"no checkpoint or Hugging Face model at .*{name}"):
        prl.load(tmp_path / name)


# Logits.


def plain_logits(model, params, tokens: np.ndarray) -> np.ndarray:
    """Qwen3 on one sequence of tokens, written out in float64 (arXiv 2505.09388)."""
    s = model.shape
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + s.norm_epsilon) * scale

    def rotate(x):
        half = s.head_dim // 2
        angle = np.arange(len(tokens))[:, None] * s.rope_theta ** (-np.arange(half) / half)
        cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate(
            [x[..., :half] * cosine - x[..., half:] * sine, x[..., half:] * cosine + x[..., :half] * sine], -1
        )

    x = p["embedding"][tokens]
    for n in range(s.layers):
        layer = jax.tree.map(lambda leaf, n=n: leaf[n], p["layers"])
        weights = layer["attention"]
        y = norm(x, layer["attention_norm"]["scale"])
        q, k, v = (np.einsum("td,dhk->thk", y, weights[name]) for name in ("query", "key", "value"))
        q = rotate(norm(q, weights["query_norm"]["scale"]))
        k = rotate(norm(k, weights["key_norm"]["scale"]))
        k, v = (np.repeat(a, s.heads // s.kv_heads, axis=1) for a in (k, v))
        scores = np.einsum("thk,shk->hts", q, k) / math.sqrt(s.head_dim)
        scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        mixed = np.einsum("hts,shk->thk", np.exp(log_softmax(scores)), v)
        x = x + np.einsum("thk,hkd->td", mixed, weights["out"])
        y = norm(x, layer["mlp_norm"]["scale"])
        gate = y @ layer["mlp"]["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["mlp"]["up"])) @ layer["mlp"]["down"]
    return norm(x, p["final_norm"]["scale"]) @ (p["embedding"] if s.tied else p["head"]).T


def test_logits_are_those_of_a_plain_computation(answering) -> None:
    model, params, tokenizer = answering
    tokens = np.array([tokenizer.encode(text)[:6] for text in QUESTIONS[:3]])
    logits = model.logits(params, tokens)
    assert logits.shape == (3, 6, model.shape.vocabulary)
    assert logits.dtype == np.float32
    for row, of_row in zip(np.asarray(logits), tokens, strict=True):
        np.testing.assert_allclose(row, plain_logits(model, params, of_row), rtol=1e-5, atol=2e-4)


def test_logits_of_grouped_heads_and_a_head_of_its_own() -> None:
    model, params = small_model()
    tokens = np.random.default_rng(0).integers(0, 100, (2, 9))
    for row, of_row in zip(np.asarray(model.logits(params, tokens)), tokens, strict=True):
        np.testing.assert_allclose(row, plain_logits(model, params, of_row), rtol=1e-5, atol=1e-4)


def test_logits_take_lists_too(answering) -> None:
    model, params, _ = answering
    assert np.array_equal(model.logits(params, [[5, 6]]), model.logits(params, np.array([[5, 6]])))


# Scoring.


@pytest.mark.parametrize("terminator", [None, "eos", "newline"])
def test_scores_are_sums_over_the_log_softmax(terminator: str | None, answering) -> None:
    tokenizer = answering[2]
    scores = prl.score(*answering, PROMPTS, CONTINUATIONS, terminator=terminator)
    mask = ends_at(tokenizer, answering[0].shape.vocabulary, newline=terminator == "newline")
    ends = [()] if terminator is None else [(int(end),) for end in np.flatnonzero(mask)]
    assert len(ends) > 1 or terminator != "newline"
    encoded_apart = 0
    for prompt, continuation, score in zip(PROMPTS, CONTINUATIONS, scores, strict=True):
        prefix, both = tokenizer.encode(prompt), tokenizer.encode(prompt + continuation)
        tokens = both[len(prefix) :]
        if both[: len(prefix)] != prefix:
            encoded_apart, tokens = encoded_apart + 1, tokenizer.encode(continuation)
        assert isinstance(score, float)
        expected = np.logaddexp.reduce([summed(answering, prefix, tokens + end) for end in ends])
        assert score == pytest.approx(expected, abs=1e-4, rel=1e-5)
    assert encoded_apart == 1


def test_scores_of_a_model_with_bos(stories) -> None:
    model, _, tokenizer = stories
    assert tokenizer.bos == 1
    prompts = ["Once upon a time", "", "Lily"]
    continuations = [" there was a little girl", "Once", " and Tom went to the park. They were happy."]
    scores = prl.score(*stories, prompts, continuations)
    assert model.shape.layers == 5
    for prompt, continuation, score in zip(prompts, continuations, scores, strict=True):
        prefix, both = tokenizer.encode(prompt), tokenizer.encode(prompt + continuation)
        tokens = both[len(prefix) :] if both[: len(prefix)] == prefix else tokenizer.encode(continuation)
        expected = summed(stories, (tokenizer.bos, *prefix), tokens)
        assert score == pytest.approx(expected, abs=2e-4, rel=1e-5)


def test_a_score_does_not_depend_on_its_neighbours(answering) -> None:
    together = prl.score(*answering, PROMPTS, CONTINUATIONS, row_length=4, rows=2)
    for prompt, continuation, score in zip(PROMPTS, CONTINUATIONS, together, strict=True):
        (alone,) = prl.score(*answering, [prompt], [continuation], row_length=100, rows=1)
        assert score == pytest.approx(alone, abs=1e-4, rel=1e-5)


def test_an_empty_continuation_may_be_an_ending(answering) -> None:
    tokenizer = answering[2]
    (score,) = prl.score(*answering, [PROMPTS[1]], [""], terminator="eos")
    assert score == pytest.approx(
        summed(answering, tokenizer.encode(PROMPTS[1]), tokenizer.eos[:1]), abs=1e-4, rel=1e-5
    )


def test_nothing_asked_nothing_answered(answering) -> None:
    assert prl.score(*answering, [], []) == []
    assert prl.beam_search(*answering, []) == prl.beam_search(*answering, [], among=["Quebec"]) == []
    assert prl.sample(*answering, []) == []


@pytest.mark.parametrize(
    ("prompts", "continuations", "options", "said"),
    [
        (["Who?"], [], {}, "1 prompts and 0 continuations"),
        (["Who?"], [" a", " b"], {}, "1 prompts and 2 continuations"),
        (["Who?", "Who?"], [" a", ""], {}, "continuation 1 has no tokens"),
        (["Who?", ""], [" a", " b"], {}, "prompt 1 has no tokens"),
        ("Who?", " me", {}, "list of texts"),
        (["Who?", "Me?"], "ab", {}, "continuations is one text"),
        (["Who?", None], [" a", " b"], {}, r"prompts\[1\] is of type NoneType"),
        (["Who?"], [3], {}, r"continuations\[0\] is of type int"),
        (["Who?"], [" \ud800"], {}, r"continuations\[0\] holds half of a surrogate pair"),
        (["Who?"], [" a"], {"rows": 0}, "rows is 0: it must be 1 or more"),
        (["Who?"], [" a"], {"terminator": "EOS"}, "terminator is 'EOS'"),
    ],
)
def test_what_cannot_be_scored_is_refused(prompts, continuations, options, said: str, answering) -> None:
    with pytest.raises(InputError, match=said):
        prl.score(*answering, prompts, continuations, **options)


# Beam search.


def test_answers_come_best_first_and_with_their_scores(answering) -> None:
    tokenizer = answering[2]
    prompts = [*QUESTIONS[:6], "The", LONG]  # of two buckets of length
    beams = prl.beam_search(*answering, prompts, beams=5, max_new_tokens=6, batch=3)
    assert len(beams) == len(prompts)
    asked, answers = [], []
    for prompt, of_prompt in zip(prompts, beams, strict=True):
        finished = [answer for answer in of_prompt if answer.finished]
        assert of_prompt[: len(finished)] == finished
        for part in (finished, of_prompt[len(finished) :]):
            assert [a.logp for a in part] == sorted((a.logp for a in part), reverse=True)
        assert len({a.tokens for a in of_prompt}) == len(of_prompt)
        assert all(a.text == tokenizer.decode(a.tokens).split("\n")[0].strip() for a in of_prompt)
        assert all(len(a.tokens) <= 5 for a in finished)
        prefix = tokenizer.encode(prompt)
        for answer in finished:
            continuation = tokenizer.decode(answer.tokens)
            # A model may write tokens that its own text is not encoded as: `score` would judge others.
            if tokenizer.encode(prompt + continuation) == prefix + answer.tokens:
                asked.append((prompt, continuation))
                answers.append(answer)
    assert len(answers) > 10
    scores = prl.score(*answering, *map(list, zip(*asked, strict=True)), terminator="eos")
    assert [a.logp for a in answers] == pytest.approx(scores, abs=1e-4, rel=1e-5)


def test_where_line_breaks_end_an_answer_it_is_as_probable_as_all_of_them(answering) -> None:
    """Trained to end in EOS and asked where a line break ends an answer, too: one probability, both ways."""
    tokenizer = answering[2]
    beams = prl.beam_search(*answering, QUESTIONS[:6], beams=5, max_new_tokens=6, newline_ends=True)
    both = [
        (prompt, text, answer)
        for prompt, answers in zip(QUESTIONS, beams, strict=False)
        for answer, text in ((a, tokenizer.decode(a.tokens)) for a in answers if a.finished)
        if tokenizer.encode(prompt + text) == tokenizer.encode(prompt) + answer.tokens
    ]
    assert len(both) > 5
    prompts, texts, answers = zip(*both, strict=True)
    scores = prl.score(*answering, prompts, texts, terminator="newline")
    assert [a.logp for a in answers] == pytest.approx(scores, abs=1e-4, rel=1e-5)
    assert all(a.logp >= a.score and sum(a.token_logps) == pytest.approx(a.logp) for a in answers)
    assert any(a.logp > a.score for a in answers)


def test_spaces_at_the_end_of_a_prompt_belong_to_what_follows(answering) -> None:
    prompts = [f"{question}{' ' * (i % 3)}" for i, question in enumerate(QUESTIONS[:6])]
    bare = [prompt.strip() for prompt in prompts]
    texts = [prompt[len(b) :] + "x" for prompt, b in zip(prompts, bare, strict=True)]
    assert prl.score(*answering, prompts, ["x"] * 6) == prl.score(*answering, bare, texts)
    searched = prl.beam_search(*answering, prompts, beams=3, max_new_tokens=4)
    assert searched == prl.beam_search(*answering, bare, beams=3, max_new_tokens=4)


def test_unfinished_answers_have_the_score_of_their_tokens(answering) -> None:
    tokenizer = answering[2]
    (beams,) = prl.beam_search(*answering, [QUESTIONS[0]], beams=4, max_new_tokens=1)
    unfinished = [answer for answer in beams if not answer.finished]
    assert len(unfinished) >= 3  # at most one answer is empty
    for answer in unfinished:
        assert len(answer.tokens) == 1
        expected = summed(answering, tokenizer.encode(QUESTIONS[0]), answer.tokens)
        assert answer.logp == pytest.approx(expected, abs=1e-4, rel=1e-5)


def test_a_line_break_ends_an_answer_where_it_is_told_to(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path)
    model, params = small_model(vocabulary=tokenizer.size)
    line_break = np.zeros_like(params["head"])
    line_break[tokenizer.newline] = 30.0
    sure = float(model.logits(params | {"head": line_break}, [tokenizer.encode("Arno?")])[0, -1].sum())
    loaded = (model, params | {"head": line_break * np.sign(sure)}, tokenizer)
    ((bare,),) = prl.beam_search(*loaded, ["Arno?"], beams=1, max_new_tokens=2)
    assert bare.tokens[0] == tokenizer.newline
    ((ended,),) = prl.beam_search(*loaded, ["Arno?"], beams=1, max_new_tokens=2, newline_ends=True)
    assert (ended.tokens, ended.text, ended.finished) == ((), "", True)


def test_a_real_model_tells_its_story(stories) -> None:
    ((answer,),) = prl.beam_search(*stories, ["Once upon a time"], beams=1, max_new_tokens=24)
    assert answer.text.startswith(", there was a little girl named Lily")


def test_a_real_model_begins_at_bos(stories) -> None:
    ((answer,),) = prl.beam_search(*stories, [""], beams=1, max_new_tokens=32)
    assert answer.text.startswith("Once upon a time, there was a little girl named Lily")
    assert not answer.finished


def test_prompts_without_tokens_are_refused(answering) -> None:
    with pytest.raises(InputError, match="prompt 1 has no tokens"):
        prl.beam_search(*answering, ["Who?", ""], beams=2)
    with pytest.raises(InputError, match="list of texts"):
        prl.beam_search(*answering, "Who?", beams=2)


@pytest.mark.parametrize("newline", [False, True])
def test_among_known_answers_all_come_in_order_and_worth_what_scoring_says(newline: bool, answering) -> None:
    known = [*dict.fromkeys(fact.answer for fact in FACTS), "Quebec", "Quebec City", " x", "Qu"]
    prompts = [*QUESTIONS[:3], LONG]  # of two buckets of length
    options = {"among": known, "newline_ends": newline}
    every = prl.beam_search(*answering, prompts, beams=len(known), **options)
    some = prl.beam_search(*answering, prompts, beams=2, **options)
    end = "newline" if newline else "eos"
    for prompt, answers, few in zip(prompts, every, some, strict=True):
        texts = [f" {text.strip()}" for text in known]
        scores = prl.score(*answering, [prompt] * len(known), texts, terminator=end)
        expected = dict(zip([text.strip() for text in known], scores, strict=True))
        assert {a.text: a.logp for a in answers} == pytest.approx(expected, abs=1e-4, rel=1e-5)
        assert [a.text for a in answers] == sorted(expected, key=lambda text: -expected[text])
        assert all(a.finished for a in answers)
        assert sum(math.exp(a.logp) for a in answers) < 1
        assert len(few) == 2
        worth = {a.text: expected[a.text] for a in few}
        assert {a.text: a.logp for a in few} == pytest.approx(worth, abs=1e-4, rel=1e-5)


def test_each_prompt_may_have_known_answers_of_its_own(answering) -> None:
    lists = [["Florence", "Rome"], ["Rome"], ["Florence", "Rome"]]
    answers = prl.beam_search(*answering, QUESTIONS[:3], beams=3, among=lists)
    assert [{a.text for a in own} for own in answers] == [{*own} for own in lists]
    (both,) = prl.beam_search(*answering, QUESTIONS[1:2], beams=3, among=["Florence", "Rome"])
    assert {a.text: a.logp for a in both}["Rome"] == pytest.approx(answers[1][0].logp, abs=1e-4)


def test_known_answers_of_a_model_with_bos(stories) -> None:
    known = ["there was a little girl", "there was a dog", "Lily", "\tred"]
    (answers,) = prl.beam_search(*stories, ["Once upon a time"], beams=4, among=known)
    texts = [*(f" {text}" for text in known[:3]), known[3]]
    scores = prl.score(*stories, ["Once upon a time"] * 4, texts, terminator="eos")
    expected = dict(zip([text.strip() for text in known], scores, strict=True))
    assert {a.text: a.logp for a in answers} == pytest.approx(expected, abs=2e-4, rel=1e-5)


@pytest.mark.parametrize(
    ("among", "said"),
    [
        ([], "among is empty"),
        ("Rome", "among is one text: give a list of texts"),
        (["Rome", ""], r"among\[1\] is blank"),
        (["Rome", 3], r"among\[1\] is of type int"),
        ([["Rome"]], "2 prompts and 1 lists in among"),
        ([["Rome"], []], r"among\[1\] is empty"),
        ([3, 4], r"among\[0\] is of type int: give a list"),
        (["Rome\nParis"], "the answer 'Rome.nParis' holds a line break"),
        (["Rome", "\ud800"], r"among\[1\] holds half of a surrogate pair"),
    ],
)
def test_what_is_no_list_of_known_answers_is_refused(among, said: str, answering) -> None:
    with pytest.raises(InputError, match=said):
        prl.beam_search(*answering, ["Who?", "Where?"], among=among, newline_ends=True)


# Sampling.


def test_samples_are_texts_with_their_scores(answering) -> None:
    tokenizer = answering[2]
    prompts = [*QUESTIONS[:4], "The", LONG]  # of two buckets of length
    options = {"samples": 8, "max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9}
    drawn = prl.sample(*answering, prompts, batch=4, **options)
    assert [len(samples) for samples in drawn] == [8] * len(prompts)
    asked, samples = [], []
    for prompt, of_prompt in zip(prompts, drawn, strict=True):
        prefix = tokenizer.encode(prompt)
        for sample in of_prompt:
            assert sample.text == tokenizer.decode(sample.tokens)
            assert len(sample.tokens) <= 5 if sample.finished else len(sample.tokens) == 6
            assert sample.logp <= 0
            # A model may write tokens that its own text is not encoded as: `score` would judge others.
            if sample.finished and tokenizer.encode(prompt + sample.text) == prefix + sample.tokens:
                asked.append((prompt, sample.text))
                samples.append(sample)
    assert len(samples) > 20
    scores = prl.score(*answering, *map(list, zip(*asked, strict=True)), terminator="eos")
    assert [sample.logp for sample in samples] == pytest.approx(scores, abs=1e-4, rel=1e-5)
    assert any(sample.sampled_logp > sample.logp + 1e-3 for sample in samples)  # 0.8 and 0.9 make it surer

    texts = [[sample.text for sample in samples] for samples in drawn]
    one_by_one = prl.sample(*answering, prompts, batch=1, **options)
    assert [[sample.text for sample in samples] for samples in one_by_one] == texts
    another = prl.sample(*answering, prompts, batch=4, seed=1, **options)
    assert [[sample.text for sample in samples] for samples in another] != texts


def test_the_coldest_sample_is_the_first_beam(answering) -> None:
    beams = prl.beam_search(*answering, QUESTIONS[:3], beams=1, max_new_tokens=4)
    for options in ({"temperature": 0.0}, {"top_k": 1}):
        drawn = prl.sample(*answering, QUESTIONS[:3], samples=2, max_new_tokens=4, **options)
        for (best,), both in zip(beams, drawn, strict=True):
            assert [(sample.tokens, sample.finished) for sample in both] == [(best.tokens, best.finished)] * 2
            assert [sample.logp for sample in both] == pytest.approx([best.logp] * 2, abs=1e-4, rel=1e-5)
            assert [sample.sampled_logp for sample in both] == [0, 0]


def test_a_line_break_ends_a_sample_where_it_is_told_to(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path)
    model, params = small_model(vocabulary=tokenizer.size)
    line_break = np.zeros_like(params["head"])
    line_break[tokenizer.newline] = 30.0
    sure = float(model.logits(params | {"head": line_break}, [tokenizer.encode("Arno?")])[0, -1].sum())
    loaded = (model, params | {"head": line_break * np.sign(sure)}, tokenizer)
    ((bare,),) = prl.sample(*loaded, ["Arno?"], samples=1, max_new_tokens=2, top_k=1)
    assert bare.text.startswith("\n")  # as drawn: nothing is stripped
    ((ended,),) = prl.sample(*loaded, ["Arno?"], samples=1, max_new_tokens=2, top_k=1, newline_ends=True)
    assert (ended.tokens, ended.text, ended.finished) == ((), "", True)


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        (["Who?", ""], {}, "prompt 1 has no tokens"),
        ("Who?", {}, "list of texts"),
        (["Who?"], {"samples": 0}, "samples is 0"),
        (["Who?"], {"batch": 0}, "batch is 0"),
        ([], {"temperature": -1.0}, "temperature is -1.0"),
        (["Who?"], {"top_p": 0.0}, "top_p is 0.0"),
        (["Who?"], {"top_k": -5}, "top_k is -5"),
    ],
)
def test_what_cannot_be_sampled_is_refused(prompts, options, said: str, answering) -> None:
    with pytest.raises(InputError, match=said):
        prl.sample(*answering, prompts, **options)
