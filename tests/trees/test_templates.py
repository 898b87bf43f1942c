import itertools
import json
import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.models_and_trees import LETTERS, data, fact, small_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.vocabulary import END, save_tokenizer, train_tokenizer
from pretrainrl_jax.trees.templates import (
    INSTRUCTION,
    Template,
    choose_examples,
    documents,
    encode_branches,
    ends_at,
)
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer, stated_eos

EXAMPLES = (("Who wrote Emma?", "Jane Austen"), ("What colour is snow?", "white"))
TEMPLATES = [Template("bare"), Template("few_shot", EXAMPLES)]


@pytest.fixture
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def qwen2():
    return load_tokenizer(data("tokenizers", "qwen2"))


@pytest.fixture(scope="module")
def stories():
    return load_tokenizer(data("models", "stories260K"))


@cache
def byte_level(bos: bool = False) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return small_tokenizer(Path(folder), bos)


@cache
def greedy_merger() -> Tokenizer:
    """A tokenizer that merges "? " across any boundary, since it splits its text nowhere beforehand."""
    vocabulary = {token: i for i, token in enumerate(["</s>", *" \n?abcdefgh", "? "])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[("?", " ")]))
    backend.decoder = decoders.Fuse()
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), None, (0,))


# Templates


def test_bare_is_the_question_as_it_is():
    assert Template("bare").prefix("Who? ") == "Who? "


def test_few_shot_shows_examples_and_ends_where_the_answer_begins():
    assert Template("few_shot", EXAMPLES).prefix("Who?") == (
        f"{INSTRUCTION}\n"
        "Question: Who wrote Emma?\nAnswer: Jane Austen\n"
        "Question: What colour is snow?\nAnswer: white\n"
        "Question: Who?\nAnswer:"
    )


def test_examples_are_the_best_known_fact_of_the_best_known_categories():
    facts = [
        fact(id="1", category="capital", popularity=5.0),
        fact(id="2", category="capital", popularity=9.0),
        fact(id="3", category="colour", popularity=7.0),
        fact(id="4", category="author", popularity=7.0),
        fact(id="5", category="sport", popularity=1.0),
    ]
    assert [f.id for f in choose_examples(facts)] == ["2", "3", "4"]
    assert choose_examples([]) == []
    assert choose_examples(facts[:1], outside=True) == facts[:1]  # there is no other category
    # Three of other categories for each: the best known of each category first, then the second ones.
    assert [f.id for f in choose_examples(facts, outside=True)] == ["2", "3", "4", "5"]
    two = [fact(id=str(i), category="ab"[i % 2], popularity=9.0 - i) for i in range(9)]
    assert [f.id for f in choose_examples(two, outside=True)] == ["0", "1", "2", "3", "4", "5"]
    lopsided = [fact(id=str(i), category="ab"[i == 3], popularity=9.0 - i) for i in range(9)]
    assert [f.id for f in choose_examples(lopsided, outside=True)] == ["0", "3", "1", "2"]  # b has but one


@given(st.lists(st.sampled_from("abcde"), max_size=20))
def test_examples_from_outside_never_are_of_the_category_asked(categories):
    facts = [fact(id=f"{i:02}", category=c, popularity=20.0 - i) for i, c in enumerate(categories)]
    chosen = choose_examples(facts, outside=True)
    kinds = {*categories}
    template = Template(
        "few_shot", tuple((f.id, "x") for f in chosen), tuple(f.category for f in chosen) * (len(kinds) > 1)
    )
    assert Template.from_json(json.loads(json.dumps(template.to_json()))) == template
    for category in kinds:
        shown = re.findall(r"Question: (\d+)\n", template.prefix("Who?", category))
        assert len(shown) <= 3
        if len(kinds) > 1:
            assert all(categories[int(i)] != category for i in shown)
            others = sum(c != category for c in categories)
            assert len(shown) == min(3, others)
    if len(kinds) > 1:  # the same questions whatever is asked of a category
        assert template.prefix("A?", "a")[:-11] == template.prefix("B?", "a")[:-11]


# Terminators


def test_the_canonical_terminator_is_eos_or_a_line_break(tokenizer):
    several = Tokenizer(tokenizer.backend, None, (7, *tokenizer.eos))
    assert Template("bare").terminator(several) == 7
    assert Template("few_shot").terminator(several) == tokenizer.newline
    assert tokenizer.decode([tokenizer.newline]) == "\n"


def test_a_tokenizer_without_a_line_break_has_no_few_shot_template():
    backend = Backend(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="a", eos_token="</s>")
    words = Tokenizer(fast, None, (1,))
    assert Template("bare").terminator(words) == 1
    with pytest.raises(InputError, match=r"^this tokenizer has no token for a line break: use the bare temp"):
        Template("few_shot").terminator(words)


def test_a_beam_ends_on_every_eos_and_under_few_shot_on_every_line_break(tokenizer):
    several = Tokenizer(tokenizer.backend, None, (7, *tokenizer.eos))
    vocabulary = several.size + 5  # embeddings are often padded beyond the tokenizer
    bare = Template("bare").terminators(several, vocabulary)
    assert set(np.flatnonzero(bare)) == {7, *tokenizer.eos}
    mask = Template("few_shot").terminators(several, vocabulary)
    assert mask.shape == (vocabulary,)
    assert mask.dtype == bool
    spelt = {i for i in range(several.size) if "\n" in several.backend.decode([i])}
    assert set(np.flatnonzero(mask)) == spelt | {7, *tokenizer.eos}
    # the byte itself, and the pair the text taught
    assert {tokenizer.encode("\n"), tokenizer.encode("\n\n")} <= {(i,) for i in spelt}


def test_qwen2_has_2178_tokens_with_a_line_break(qwen2):
    assert qwen2.has_newline.sum() == 2178
    assert qwen2.decode([qwen2.newline]) == "\n"
    # Spelt from the raw vocabulary, where byte-level BPE writes a line break as Ċ.
    raw = json.loads(data("tokenizers", "qwen2", "vocab.json").read_text())
    assert set(np.flatnonzero(qwen2.has_newline)) == {i for token, i in raw.items() if "Ċ" in token}
    mask = ends_at(qwen2, 151_936, newline=True)
    assert mask.sum() == 2178 + len(qwen2.eos)
    assert ends_at(qwen2, 151_936, newline=False).sum() == len(qwen2.eos)


# Where a prefix ends and its branch begins


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.kind)
def test_a_branch_is_the_joint_tokenisation_without_the_prefix(tokenizer, template):
    questions = ["What is the capital of Arno?", "Who, then?"]
    answers = [["Florence", "Rome", "the  Po\u00e9"], ["X"]]
    prompts = [template.prefix(question) for question in questions]
    encoded = encode_branches(tokenizer, template, prompts, answers)
    end = tokenizer.eos[0] if template.kind == "bare" else tokenizer.newline
    assert encoded.separate == 0
    for question, several, prefix, branches in zip(
        questions, answers, encoded.prefixes, encoded.branches, strict=True
    ):
        assert prefix == tokenizer.encode(template.prefix(question))
        for answer, branch in zip(several, branches, strict=True):
            joint = tokenizer.encode(f"{template.prefix(question)} {answer}")
            assert (*prefix, *branch) == (*joint, end)
            assert tokenizer.decode(branch[:-1]) == f" {answer}"


@given(st.text(LETTERS, min_size=1, max_size=12), st.text(LETTERS, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_prefix_and_branch_spell_the_text_of_both(question, answer):
    encoded = encode_branches(byte_level(), Template("bare"), [question], [[answer]])
    ((*tokens, end),) = encoded.branches[0]
    assert end == byte_level().eos[0]
    assert byte_level().decode([*encoded.prefixes[0], *tokens]) == f"{question} {answer}"


@settings(deadline=None)
@given(st.text("? ab\n", min_size=1, max_size=8), st.text("? ab\n", min_size=1, max_size=5))
def test_they_also_do_where_answers_are_encoded_apart(question, answer):
    encoded = encode_branches(greedy_merger(), Template("bare"), [question], [[answer]])
    ((*tokens, _),) = encoded.branches[0]
    assert greedy_merger().decode([*encoded.prefixes[0], *tokens]) == f"{question} {answer}"
    assert encoded.separate == question.endswith("?")


def test_where_both_do_not_begin_with_the_prefix_the_answer_is_encoded_apart_and_counted():
    tokenizer = greedy_merger()
    template = Template("bare")
    question, other = "ab?", "ab"
    assert tokenizer.encode("ab? c")[:3] != tokenizer.encode("ab?")  # the trap: "?" and " " become one
    encoded = encode_branches(tokenizer, template, [question, other], [["c", "de"], ["f"]])
    assert encoded.separate == 2
    assert encoded.prefixes == [tokenizer.encode("ab?"), tokenizer.encode("ab")]
    assert encoded.branches[0] == [(*tokenizer.encode(" c"), 0), (*tokenizer.encode(" de"), 0)]
    assert encoded.branches[1] == [(*tokenizer.encode(" f"), 0)]


def test_a_prefix_that_ends_in_a_space_keeps_it(qwen2):
    encoded = encode_branches(qwen2, Template("bare"), ["Capital: "], [["Rome"]])
    assert qwen2.decode([*encoded.prefixes[0], *encoded.branches[0][0][:-1]]) == "Capital:  Rome"


def test_no_questions_and_questions_without_answers_encode_to_nothing(tokenizer):
    assert encode_branches(tokenizer, Template("bare"), [], []).prefixes == []
    encoded = encode_branches(tokenizer, Template("bare"), ["Who?", "What?"], [[], ["x"]])
    assert [len(several) for several in encoded.branches] == [0, 1]


def assert_bos(tokenizer: Tokenizer, bos: int | None) -> None:
    assert tokenizer.bos == bos
    assert tokenizer.start == (() if bos is None else (bos,))
    for template in TEMPLATES:
        encoded = encode_branches(
            tokenizer, template, [template.prefix("Who is Lily?")], [["a girl", "a boy"]]
        )
        (prefix,), (branches,) = encoded.prefixes, encoded.branches
        assert encoded.separate == 0
        # The backend's own way of adding BOS agrees, and no branch has one.
        assert list(prefix) == tokenizer.backend.encode(template.prefix("Who is Lily?"))
        assert (prefix[0] == bos) == (bos is not None)
        assert all(bos not in branch for branch in branches)
    assert tokenizer.encode("\n")[-1] == tokenizer.newline


def test_bos_stands_before_every_prefix_iff_the_tokenizer_adds_it(tmp_path):
    with_bos = byte_level(bos=True)
    assert_bos(with_bos, with_bos.backend.convert_tokens_to_ids("<s>"))
    assert_bos(byte_level(), None)
    # One that has a BOS token and never adds it:
    with_bos.backend.save_pretrained(str(tmp_path))
    settings_file = tmp_path / "tokenizer.json"
    settings_file.write_text(json.dumps(json.loads(settings_file.read_text()) | {"post_processor": None}))
    silent = load_tokenizer(tmp_path)
    assert silent.backend.bos_token == "<s>"
    assert_bos(silent, None)


def test_bos_of_real_tokenizers(qwen2, stories):
    assert_bos(stories, 1)
    assert_bos(qwen2, None)


# What a folder states


def folder_with(path: Path, **files) -> Path:
    """A tokenizer whose own EOS is the letter w, and model files beside it."""
    save_tokenizer(train_tokenizer(["a few words"], 260), path)
    settings_file = path / "tokenizer_config.json"
    settings_file.write_text(settings_file.read_text().replace(END, "w"))
    for name, values in files.items():
        (path / f"{name}.json").write_text(json.dumps(values))
    return path


LLAMA = {"model_type": "llama", "vocab_size": 300}


@pytest.mark.parametrize(
    ("generation", "config", "eos"),
    [
        ({"eos_token_id": [5, 3]}, {"eos_token_id": 7}, (5, 3)),
        ({"eos_token_id": 4}, {"eos_token_id": [7]}, (4,)),
        ({"eos_token_id": 0}, {"eos_token_id": 7}, (0,)),  # 0 is an id
        ({"do_sample": True}, {"eos_token_id": 7}, (7,)),
        ({"eos_token_id": None}, {"eos_token_id": [7, 8]}, (7, 8)),
        (None, {"eos_token_id": 7}, (7,)),
    ],
)
def test_eos_comes_from_generation_config_then_from_config(tmp_path, generation, config, eos):
    files = {"config": LLAMA | config} | ({"generation_config": generation} if generation else {})
    folder = folder_with(tmp_path, **files)
    assert stated_eos(folder) == eos
    loaded = load_tokenizer(folder)
    assert loaded.eos == eos
    assert loaded.backend.eos_token_id not in eos  # the tokenizer's own says otherwise
    assert Template("bare").terminator(loaded) == eos[0]


@pytest.mark.parametrize("eos", ["2", 2.5, -1, True, [2, None], [[2]], {"id": 2}])
def test_an_eos_that_is_no_id_is_refused(tmp_path, eos):
    folder = folder_with(tmp_path, config=LLAMA, generation_config={"eos_token_id": eos})
    with pytest.raises(InputError, match=r"generation_config.json: eos_token_id is .*: write an id"):
        load_tokenizer(folder)


def test_eos_is_the_tokenizers_own_only_where_nothing_else_states_it(tmp_path):
    loaded = load_tokenizer(folder_with(tmp_path, config=LLAMA, generation_config={}))
    assert loaded.eos == (loaded.backend.convert_tokens_to_ids("w"),)


def test_a_folder_that_states_no_eos_at_all_is_refused(tmp_path):
    folder = folder_with(tmp_path)
    settings_file = folder / "tokenizer_config.json"
    stated = json.loads(settings_file.read_text())
    del stated["eos_token"]
    settings_file.write_text(json.dumps(stated))
    with pytest.raises(InputError, match=r"no EOS id in .*generation_config\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["missing", "empty", "broken"])
def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path, name):
    folder = tmp_path / name
    if name != "missing":
        folder.mkdir()
    if name == "broken":
        folder_with(folder)
        (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", ["trained", "with_bos", "stories", "several"])
def test_a_saved_tokenizer_loads_as_the_same(request, tmp_path, tokenizer, kind):
    if kind == "several":
        saved = Tokenizer(tokenizer.backend, 3, (9, 4))
    else:
        saved = request.getfixturevalue("stories") if kind == "stories" else byte_level(kind == "with_bos")
    saved.save(tmp_path / "saved")
    (tmp_path / "saved" / "generation_config.json").write_text('{"eos_token_id": 250}')  # does not count now
    loaded = load_tokenizer(tmp_path / "saved")
    assert (loaded.bos, loaded.eos, loaded.size) == (saved.bos, saved.eos, saved.size)
    assert (loaded.newline, loaded.has_newline.tolist()) == (saved.newline, saved.has_newline.tolist())
    for text in ("What is the capital of Arno? Florence", " two\n\nlines", "caf\u00e9"):
        assert loaded.encode(text) == saved.encode(text)
        assert loaded.decode(loaded.encode(text)) == saved.decode(saved.encode(text))
    assert loaded.encode_all(["one", "two"]) == [saved.encode("one"), saved.encode("two")]


# Documents


class Letters:
    """A backend whose token of a letter is its code."""

    added_tokens_decoder, all_special_ids = {}, ()
    bos_token_id = eos_token_id = unk_token_id = None

    def __call__(self, texts, add_special_tokens, split_special_tokens):
        assert (add_special_tokens, split_special_tokens) == (False, True)
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


@settings(deadline=None)
@given(
    st.lists(st.text("abcdef", max_size=30), max_size=4),
    st.integers(2, 12),
    st.sampled_from([None, 1]),
)
def test_documents_together_predict_every_token_once(texts, row_length, bos):
    tokenizer = Tokenizer(Letters(), bos, (2,))
    made = documents(tokenizer, texts, row_length)
    assert len({t.id for t in made}) == len(made)
    assert all(t.inputs <= row_length for t in made)
    for number, text in enumerate(texts):
        pieces = [t for t in made if t.id.split(":")[0] == str(number)]
        ended = [*map(ord, text), 2]
        assert all(p.prefix == tokenizer.start and len(p.branches) == 1 for p in pieces)
        tokens = [p.branches[0].tokens for p in pieces]
        # Without BOS the first token of a piece is read and not predicted: the piece before predicted it.
        predicted = [t if bos else t[1:] for t in tokens]
        assert list(itertools.chain(*predicted)) == (ended if bos else ended[1:])
        assert tokens[0][0] == ended[0]
        if bos is None:
            assert all(a[-1] == b[0] for a, b in itertools.pairwise(tokens))
        # No more pieces than needed.
        assert len(pieces) == 1 or all(p.inputs == row_length for p in pieces[:-1])


def test_a_text_that_fits_is_one_tree(tokenizer):
    text = "Rome is a city"
    (made,) = documents(tokenizer, [text], 256)
    assert made.prefix == ()
    assert made.branches[0].tokens == (*tokenizer.encode(text), tokenizer.eos[0])
    with_bos = byte_level(bos=True)
    (made,) = documents(with_bos, [text], 256)
    assert made.prefix == (with_bos.bos,)
    assert made.branches[0].tokens == (*with_bos.encode(text), *with_bos.eos)
    assert documents(tokenizer, [], 256) == []
