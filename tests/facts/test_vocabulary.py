import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pretrainrl_jax import config
from pretrainrl_jax.facts.corpus import verbalise
from pretrainrl_jax.facts.vocabulary import END, save_tokenizer, train_tokenizer
from pretrainrl_jax.facts.world import make_world

SCRIPT = """
import hashlib
from pretrainrl_jax import config
from pretrainrl_jax.facts.corpus import verbalise
from pretrainrl_jax.facts.vocabulary import train_tokenizer
from pretrainrl_jax.facts.world import make_world
corpus = verbalise(make_world(config.WorldConfig(), 0), config.CorpusConfig(), 0)
print(hashlib.sha256(train_tokenizer(corpus.training, 2048).to_str().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def world():
    return make_world(config.WorldConfig(), 0)


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer(verbalise(world, config.CorpusConfig(), 0).training, 2048)


def test_merges_the_most_frequent_pair_first():
    tokenizer = train_tokenizer(["ab ab ab ab", "ab cd", "cd x"], 259)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    # "ab" stands five times, three of them after a space (Ġ); "cd" twice.
    assert [tuple(merge) for merge in merges] == [("a", "b"), ("Ġ", "ab")]
    assert tokenizer.encode("ab ab").tokens == ["ab", "Ġab"]


def test_size_and_special_tokens(tokenizer):
    assert tokenizer.get_vocab_size() == 2048
    added = json.loads(tokenizer.to_str())["added_tokens"]
    assert [token["content"] for token in added] == [END]
    assert sorted(tokenizer.get_vocab().values()) == list(range(2048))
    assert tokenizer.encode("").ids == []


def test_smallest_vocabulary():
    assert train_tokenizer(["some text"], 257).get_vocab_size() == 257
    with pytest.raises(ValidationError, match="greater than or equal to 257"):
        config.TokenizerConfig(vocabulary=256)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(tokenizer, text):
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_question_and_answer_begin_with_the_question(world, tokenizer):
    for fact in world:
        question = tokenizer.encode(fact.question).ids
        answer = tokenizer.encode(f" {fact.answer}").ids
        assert tokenizer.encode(f"{fact.question} {fact.answer}").ids == question + answer


def test_answers_are_short(world, tokenizer):
    lengths = [len(tokenizer.encode(f" {answer}").ids) for answer in sorted({fact.answer for fact in world})]
    assert sum(1 <= length <= 3 for length in lengths) > 0.98 * len(lengths)
    assert all(lengths.count(length) > 0.1 * len(lengths) for length in (1, 2, 3))


def test_transformers_reads_what_is_saved(tmp_path, world, tokenizer):
    from transformers import AutoTokenizer

    save_tokenizer(tokenizer, tmp_path / "new" / "tokenizer")
    assert {path.name for path in (tmp_path / "new" / "tokenizer").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    loaded = AutoTokenizer.from_pretrained(tmp_path / "new" / "tokenizer")
    assert loaded.eos_token == END
    assert loaded.eos_token_id == tokenizer.token_to_id(END)
    assert loaded.bos_token is None
    assert len(loaded) == 2048
    for text in [world[0].question, "naïve  東京 \n x", "don't , stop ."]:
        assert loaded.encode(text) == tokenizer.encode(text).ids
        assert loaded.decode(loaded.encode(text)) == text


def test_the_same_in_another_process(tokenizer):
    root = Path(config.__file__).parents[1]
    expected = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    for hashing in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected
