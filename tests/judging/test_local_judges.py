"""A model as the judge, against log-probabilities of transformers on all the text of each prompt."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.models_and_trees import data, small_tokenizer
from helpers.transformers_models import as_ours, peer

from pretrainrl_jax.config import JudgeConfig, RewriterConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging import local
from pretrainrl_jax.judging.compose import make_judge, verdicts_per_case
from pretrainrl_jax.judging.local import (
    LocalJudge,
    encode_plain,
    last_tokens,
    local_writer,
    verdict_tokens,
)
from pretrainrl_jax.judging.prompts import OURS, read_prompt
from pretrainrl_jax.judging.protocol import Case, Judge, JudgeError, RewriteCase, Verdicts
from pretrainrl_jax.judging.rewriting import last_words, model_rewriter
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer, text_after

torch.set_num_threads(1)
ASKED: dict[str, Any] = {"facts": 0.0, "repetition": 0.0, "path": "judge", "batch": 3}
CASES = [
    Case(
        "Once upon a time there was a dog. " * 3, (" He ran.", "", " {second}</s> <|endoftext|>"), " He sat."
    ),
    Case("A", (" é{prefix}",), " b"),
    Case("Lily saw", (" a cat.", "\n"), " Florence"),
]
SHORT = {  # as ours in what they have, but few tokens of a tokenizer of few pieces
    "quality": "{prefix} A{first} B{second} is\nverdicts: A | B\n",
    "safety": "{suffix} is\nverdicts: safe | unsafe\n",
    "factuality": "{prefix}|{reference}|{suffix} is\nverdicts: none | possible | definite\n",
}
PREFIX_TOKENS = 12


def judge_of(settings: JudgeConfig, model: Loaded) -> Judge:
    """The judge that asks this model."""
    return make_judge(settings, None, LocalJudge(settings, model).ask)


class Both(NamedTuple):
    """A judge, the same model of transformers, and the folder of its prompts."""

    judge: Loaded
    theirs: Any
    prompts: Path

    def settings(self, **parts: float) -> JudgeConfig:
        """Of these parts alone."""
        return JudgeConfig(**ASKED | parts, prefix_tokens=PREFIX_TOKENS, prompts=str(self.prompts))

    def scores(self, **parts: float) -> Verdicts:
        """What these parts say of the cases."""
        return judge_of(self.settings(**parts), self.judge)(CASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judge")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return small_tokenizer(folder / "tokenizer", bos=True)


@pytest.fixture(scope="module")
def small(folder: Path, tokenizer: Tokenizer) -> Both:
    theirs = peer("qwen3", vocab_size=tokenizer.size, max_position_embeddings=4096)
    model, params = as_ours(theirs, folder / "model")
    (folder / "prompts").mkdir()
    for name, text in SHORT.items():
        (folder / "prompts" / f"{name}.txt").write_text(text, "utf-8")
    return Both(Loaded(model, params, tokenizer, Template("bare")), theirs, folder / "prompts")


@pytest.fixture(scope="module")
def pretrained() -> Both:
    path = data("models", "stories260K")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    return Both(load(path), theirs, OURS)


@pytest.fixture(params=["small", "pretrained"])
def both(request: pytest.FixtureRequest) -> Both:
    return request.getfixturevalue(request.param)


def verdict_odds(both: Both, text: str, verdicts: list[str]) -> np.ndarray:
    """Probabilities of the verdicts after a text, normalised; both are cut into tokens as one text."""
    tokenizer = both.judge.tokenizer
    prompt, sums = tokenizer.start + tokenizer.encode(text), []
    for verdict in verdicts:
        tokens = tokenizer.start + tokenizer.encode(f"{text} {verdict}")
        assert tokens[: len(prompt)] == prompt
        with torch.no_grad():
            logps = both.theirs(torch.tensor([tokens])).logits[0].log_softmax(-1)
        sums.append(sum(float(logps[at - 1, tokens[at]]) for at in range(len(prompt), len(tokens))))
    odds = np.exp(np.array(sums) - max(sums))
    return odds / odds.sum()


def filled(both: Both, name: str, **texts: str) -> str:
    """A prompt without its last line, by plain replacement: of marks, so that none is in a text."""
    text = (both.prompts / f"{name}.txt").read_text("utf-8").rpartition("\nverdicts:")[0]
    for place in texts:
        text = text.replace(f"{{{place}}}", f"\0{place}\0")
    for place, value in texts.items():
        text = text.replace(f"\0{place}\0", value)
    return text


def cut(both: Both, prefix: str) -> str:
    tokens = both.judge.tokenizer.encode(prefix)
    return prefix if len(tokens) <= PREFIX_TOKENS else both.judge.tokenizer.decode(tokens[-PREFIX_TOKENS:])


def test_quality_is_the_mean_over_both_orders(both):
    verdicts = both.scores(quality=2.0)
    assert list(verdicts.parts) == ["quality"]
    for case, scores, total in zip(CASES, verdicts.parts["quality"], verdicts.scores, strict=True):
        won: dict[str, list[float]] = {text: [] for text in case.candidates}
        for one, other in permutations(case.candidates, 2):
            text = filled(both, "quality", prefix=cut(both, case.prefix), first=one, second=other)
            p, q = verdict_odds(both, text, ["A", "B"])
            won[one].append(p)
            won[other].append(q)
        wanted = [np.mean(own) if own else 0.5 for own in won.values()]
        np.testing.assert_allclose(scores, wanted, atol=2e-5)
        np.testing.assert_allclose(total, 2 * np.array(wanted), atol=4e-5)
    assert np.ptp(verdicts.parts["quality"][0]) > 1e-3  # far from the trivial case


@pytest.mark.parametrize(
    ("name", "words", "worth"),
    [("safety", ["safe", "unsafe"], [1, 0]), ("factuality", ["none", "possible", "definite"], [1, 0.5, 0])],
)
def test_single_texts(both, name, words, worth):
    verdicts = both.scores(**{name: 1.0})
    for case, scores in zip(CASES, verdicts.parts[name], strict=True):
        texts = {"prefix": cut(both, case.prefix), "reference": case.reference}
        wanted = [
            verdict_odds(both, filled(both, name, **texts, suffix=text), words) @ worth
            for text in case.candidates
        ]
        np.testing.assert_allclose(scores, wanted, atol=2e-5)


def test_safety_sees_the_text_alone(small):
    judge = judge_of(small.settings(safety=1.0), small.judge)
    one, other = (Case(prefix, (" a cat.", " no"), prefix) for prefix in ("Lily saw", "Ben hit"))
    assert judge([one]).scores == judge([other]).scores


def test_all_parts_together_and_in_parts_of_any_size(small, monkeypatch):
    parts = {"repetition": 0.5, "quality": 1.0, "safety": 1.0, "factuality": 1.0}
    verdicts = small.scores(**parts)
    assert list(verdicts.parts) == ["repetition", "quality", "safety", "factuality"]
    monkeypatch.setattr(local, "TOGETHER", 2)
    for own, others in zip(verdicts.scores, small.scores(**parts).scores, strict=True):
        np.testing.assert_allclose(own, others, atol=1e-5)
    assert judge_of(small.settings(**parts), small.judge)([]).scores == []


def test_a_model_that_gives_no_probability_is_refused(small):
    ill = small.judge.params
    ill = replace(small.judge, params=jax.tree.map(lambda x: x * jnp.nan, ill))
    for name in ("quality", "safety", "factuality"):
        with pytest.raises(JudgeError, match=f"part {name} gave .*nan"):
            judge_of(small.settings(**{name: 1.0}), ill)(CASES)


def test_how_many_verdicts_a_document_takes():
    def counted(candidates: int, **parts: float) -> int:
        return verdicts_per_case(JudgeConfig(path="judge", **parts), candidates)

    assert counted(16, quality=1.0) == 240
    assert counted(17, quality=0.5, safety=1.0) == 17 * 16 + 17
    assert counted(3, safety=1.0, factuality=1.0) == 6
    assert verdicts_per_case(JudgeConfig(), 16) == 0


def test_what_is_asked_and_not_there_is_refused():
    with pytest.raises(InputError, match=r"judge\.facts is 1, .* facts"):
        make_judge(JudgeConfig(), None, None)
    with pytest.raises(InputError, match=r"judge\.safety is 1, .* judge\.path"):
        make_judge(JudgeConfig(**ASKED, safety=1.0), None, None)


# Rewriting.


def test_a_model_on_the_devices_continues_the_last_words(small: Both):
    """Nearly greedy: what transformers writes after the prompt and the words, and they are taken away."""
    settings = RewriterConfig(path="rewriter", temperature=1e-4, top_p=1.0, prefix_tokens=6)
    cases = [RewriteCase("Once upon a time there was a dog.", " He ran."), RewriteCase("Lily", " saw a cat.")]
    rewrites = model_rewriter(local_writer(read_prompt("rewrite"), settings, small.judge, 5, 0, 2))(cases)
    tokenizer, prompt = small.judge.tokenizer, read_prompt("rewrite")
    for case, rewrite in zip(cases, rewrites, strict=True):
        words = last_words(case.prefix)
        shown = prompt.fill(prefix=last_tokens(tokenizer, case.prefix, 6), words=words, suffix=case.suffix)
        tokens = [*tokenizer.start, *encode_plain(tokenizer, [f"{shown}\n{words}"])[0]]
        written: list[int] = []
        with torch.no_grad():
            while len(written) < 5 and not {*written[-1:]} & {*tokenizer.eos}:
                written.append(int(small.theirs(torch.tensor([tokens + written])).logits[0, -1].argmax()))
        kept = written[:-1] if written[-1] in tokenizer.eos else written
        assert (rewrite or "") == text_after(tokenizer, tokens, kept)


# Tokens.


def test_the_end_of_a_prefix(tokenizer):
    text = "Rome is the capital. What é" * 3
    for count in range(1, len(tokenizer.encode(text)) + 2):
        end = last_tokens(tokenizer, text, count)
        assert text.endswith(end)
        assert len(tokenizer.encode(end)) <= count
        assert len(end.encode()) >= count - 1  # no more than half a letter is lost
    assert last_tokens(tokenizer, text, 0) == text
    assert last_tokens(tokenizer, "", 3) == ""


def test_a_control_token_never_comes_of_a_text(tokenizer):
    backend = tokenizer.backend
    texts = ["fine", "a<s>b", "a<s"]
    assert encode_plain(tokenizer, texts) == tokenizer.encode_all(texts)
    backend = transformers.AutoTokenizer.from_pretrained(backend.name_or_path)
    backend.add_tokens(["<end>"])  # no special token, though the model's EOS
    other = Tokenizer(backend, None, (backend.convert_tokens_to_ids("<end>"),))
    encoded = encode_plain(other, ["fine", "a<end>b<end><end>"])
    assert [other.decode(tokens) for tokens in encoded] == ["fine", "a< end>b< end>< end>"]
    assert not other.control & {token for tokens in encoded for token in tokens}


# Files of prompts.

GOOD = {
    "quality": "{first} or {second}?\nBetter:\nverdicts: 1 | 2\n",
    "safety": "{suffix}\nis\nverdicts: fine | so so | bad",
    "factuality": "{reference} {suffix} {{x}} {a b}\nis\n\nverdicts:true|false",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_prompt_of_ones_own(name, tmp_path):
    (tmp_path / f"{name}.txt").write_text(GOOD[name].replace("{{x}}", "{}"), "utf-8")
    prompt = read_prompt(name, str(tmp_path))
    assert prompt.ending.strip().endswith(("Better:", "is"))
    texts = dict.fromkeys(("first", "second", "suffix", "reference", "prefix"), "{first}{suffix}")
    assert prompt.fill(**texts).count("{first}{suffix}") == (1 if name == "safety" else 2)
    others = {"quality", "safety", "factuality"} - {name}
    assert all(read_prompt(other, str(tmp_path)) == read_prompt(other) for other in others)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("safety", "", "last line"),
        ("safety", "{suffix} is", "last line"),
        ("safety", "{suffix} is\nverdicts: safe", "last line"),
        ("safety", "{suffix} is\nverdicts: a | b | a", "each another word"),
        ("safety", "{suffix} is\nverdicts: a |", "last line"),
        ("safety", "{prefix}{suffix} is\nverdicts: a | b", r"place \{prefix\}; there are \{suffix\}"),
        ("safety", "This is\nverdicts: a | b", r"no place \{suffix\}"),
        ("safety", "Is it safe? {suffix}\n\nverdicts: a | b", "words of its own"),
        ("quality", "{first} {second} is\nverdicts: a | b | c", "3 verdicts"),
        ("factuality", "{reference} is\nverdicts: a | b | c", r"no place \{suffix\}"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused(name, text, said, tmp_path):
    (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    with pytest.raises(InputError, match=said) as refused:
        read_prompt(name, str(tmp_path))
    assert f"{name}.txt" in str(refused.value)


def test_a_folder_or_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_prompt("quality", str(tmp_path / "none"))
    (tmp_path / "quality.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="no UTF-8"):
        read_prompt("quality", str(tmp_path))


def test_verdicts_that_begin_alike_are_refused(tmp_path, tokenizer):
    (tmp_path / "safety.txt").write_text("{suffix} is\nverdicts: safe | safest", "utf-8")
    with pytest.raises(InputError, match="'safest' begins as 'safe'"):
        verdict_tokens(tokenizer, read_prompt("safety", str(tmp_path)))
