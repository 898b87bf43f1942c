"""Text never becomes a control token: not in facts, prompts, documents or few-shot examples."""

from pathlib import Path

import pytest
from helpers.fact_sources import CASES, read
from helpers.models_and_trees import data, small_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.templates import Template, documents, encode_branches
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer

NAMES = ["story model", "qwen2", "trained"]
MARKS = ["<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {
        "story model": load_tokenizer(data("models", "stories260K")),
        "qwen2": load_tokenizer(data("tokenizers", "qwen2")),
        "trained": small_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=True),
    }


def control(tokenizer: Tokenizer) -> set[int]:
    """By transformers alone: every id that it calls special, and the ends of a text."""
    return {*tokenizer.backend.all_special_ids, *tokenizer.eos, tokenizer.backend.bos_token_id}


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.sampled_from([*MARKS, " ", "a", "Who ", "\n", "é"]), max_size=6))
def test_any_text_is_read_back_as_it_was(
    name: str, tokenizers: dict[str, Tokenizer], parts: list[str]
) -> None:
    tokenizer, text = tokenizers[name], "".join(parts)
    ids = tokenizer.encode(text)
    assert not control(tokenizer) & {*ids}
    assert tokenizer.decode(ids).strip() == text.strip()
    assert tokenizer.encode_all([text, "plain", text]) == [ids, tokenizer.encode("plain"), ids]


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_text_has_its_control_tokens(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[name]
    end = tokenizer.backend.convert_ids_to_tokens(tokenizer.eos[0])
    assert tokenizer.encode_rendered([f"a{end}"])[0][-1] == tokenizer.eos[0]
    assert tokenizer.eos[0] not in tokenizer.encode(f"a{end}")
    assert tokenizer.encode_rendered([f"a{end}"])[0][-1] == tokenizer.eos[0]  # whatever was encoded before
    assert tokenizer.encode_rendered([]) == tokenizer.encode_all([]) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("template", [Template("bare"), Template("few_shot", (("Which <s>?", "</s>"),))])
def test_facts_and_documents(name: str, template: Template, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[name]
    facts = read(CASES / "control_tokens.jsonl").facts
    questions = [f"{fact.question} <|endoftext|></s>" for fact in facts]
    encoded = encode_branches(tokenizer, template, questions, [fact.answers for fact in facts])
    start = len(tokenizer.start)
    for fact, prefix, (branch,) in zip(facts, encoded.prefixes, encoded.branches, strict=True):
        assert not control(tokenizer) & {*prefix[start:], *branch[:-1]}
        assert tokenizer.decode(branch[:-1]).strip() == fact.answer
    (tree,) = documents(tokenizer, ["One.<|endoftext|>Two.</s><s>Three."], 64)
    tokens = (*tree.prefix[start:], *tree.branches[0].tokens)
    assert [i for i in tokens if i in control(tokenizer)] == [tokenizer.eos[0]]


@pytest.mark.parametrize("name", NAMES)
def test_text_without_control_tokens_is_encoded_as_before(
    name: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers[name]
    texts = data("corpora", "wikitext2_valid.txt").read_text("utf-8").splitlines()[:1500]
    texts += data("popqa", "popQA.tsv").read_text("utf-8").splitlines()[:1000]
    plain = [
        text for text in texts if not any(token in text for token in tokenizer.backend.all_special_tokens)
    ]
    assert len(plain) > 1000
    expected = tokenizer.backend(plain, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_all(plain) == [tuple(ids) for ids in expected]


def test_tokens_added_for_a_purpose_stay(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    small_tokenizer(folder)
    backend = AutoTokenizer.from_pretrained(folder)
    backend.add_tokens(["<tool>"])
    tokenizer = Tokenizer(backend, None, (backend.eos_token_id,))
    assert tokenizer.encode("a<tool>b")[1] == backend.convert_tokens_to_ids("<tool>")


def test_an_end_that_the_tokenizer_writes_from_text_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    small_tokenizer(folder)
    backend = AutoTokenizer.from_pretrained(folder)
    backend.add_tokens(["<end>"])  # no special token, though the model's EOS
    tokenizer = Tokenizer(backend, None, (backend.convert_tokens_to_ids("<end>"),))
    with pytest.raises(InputError, match="'a<end>b' holds '<end>', a control token"):
        tokenizer.encode("a<end>b")
    with pytest.raises(InputError, match="leave it out"):
        tokenizer.encode_all(["fine", "a<end>b"])


def test_pieces_that_spell_a_control_token_are_refused_and_unknown_letters_are_not() -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in "abs<>/")]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer = Tokenizer(fast, None, (1,))
    assert 0 in tokenizer.encode("aχb")
    assert tokenizer.decode(tokenizer.encode("ab<s>")) == "ab<s>"
    with pytest.raises(InputError, match="'a</s>' holds '</s>'"):
        tokenizer.encode("a</s>")
