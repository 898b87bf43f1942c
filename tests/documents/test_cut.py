"""Where documents are cut: drawn evenly among all places, of their own tokens, of the right length."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from helpers.models_and_trees import small_tokenizer
from hypothesis import assume, given
from hypothesis import strategies as st

from pretrainrl_jax.config import DocumentsConfig, SelfimproveConfig
from pretrainrl_jax.documents import stream
from pretrainrl_jax.documents.cut import Cuts, cut
from pretrainrl_jax.documents.stream import Document, Stream
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.tokenization import Tokenizer

numbers = st.integers(0, 2**40)


@given(
    tokens=st.lists(st.integers(0, 500), max_size=60),
    bos=st.sampled_from([(), (7,)]),
    seed=st.integers(0, 2**32 - 1),
    number=numbers,
    suffix=st.integers(1, 12),
    room=st.integers(1, 20),
    shortest=st.integers(1, 6),
)
def test_a_cut_is_a_stretch_of_the_document(tokens, bos, seed, number, suffix, room, shortest) -> None:
    assume(shortest <= room)
    length = len(bos) + room + suffix
    document = Document(number, "name", "")
    asked = SelfimproveConfig(suffix=suffix, length=length, shortest_prefix=shortest)
    made = cut(document, tokens, bos, asked, seed)
    if len(tokens) < suffix + shortest:
        assert made is None
        return
    assert made is not None
    assert made == cut(document, tokens, bos, asked, seed)
    assert (made.number, made.name, made.document) == (number, "name", tuple(tokens[:length]))
    assert len(made.suffix) == suffix
    assert made.prefix[: len(bos)] == bos
    prefix = made.prefix[len(bos) :]
    assert shortest <= len(prefix) <= room
    stretch = [*prefix, *made.suffix]
    places = [at for at in range(len(tokens)) if tokens[at : at + len(stretch)] == stretch]
    assert places
    if len(prefix) < room:  # nothing was left out before it
        assert 0 in places


def test_every_place_is_as_likely() -> None:
    tokens = list(range(100, 140))
    asked = SelfimproveConfig(suffix=5, length=40, shortest_prefix=2)
    drawn = Counter()
    for number in range(7000):
        made = cut(Document(number, "", ""), tokens, (), asked, 3)
        assert made is not None
        drawn[made.suffix[0] - 100] += 1
    assert sorted(drawn) == list(range(2, 36))  # 34 places
    assert all(140 < count < 280 for count in drawn.values())
    again = cut(Document(5, "", ""), tokens, (), asked, 4)
    assert again != cut(Document(5, "", ""), tokens, (), asked, 3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


ASKED = SelfimproveConfig(suffix=4, length=16, shortest_prefix=2)
WORDS = "Where is the river? The river is in the valley of the north. "


def cuts_of(texts: list[str], tokenizer: Tokenizer, asked: SelfimproveConfig = ASKED, **documents) -> Cuts:
    settings = DocumentsConfig(**({"shuffle": 5, "epochs": 2} | documents))
    return Cuts(Stream(settings, 1, texts), tokenizer, asked, seed=9)


def test_cuts_of_a_stream(tokenizer: Tokenizer) -> None:
    texts = [f"{n} {WORDS * (n % 3)}" for n in range(30)]
    cuts = cuts_of(texts, tokenizer)
    every = cuts.take(1000)
    assert len(every) == 2 * sum(len(tokenizer.encode(text)) >= 6 for text in texts)
    assert cuts.stream.dropped == {"too_short": 60 - len(every)}
    assert 10 < len(every) < 60
    assert cuts.stream.ended
    for one in every:
        own = tokenizer.encode(texts[int(one.name.rpartition(" ")[2]) - 1])
        assert one.document == own[:16]
        assert len(one.prefix) + len(one.suffix) <= 16
        assert not {*one.prefix[len(tokenizer.start) :], *one.suffix} & {*tokenizer.eos}
    by_text = {}
    for one in every:
        by_text.setdefault(one.document, set()).add(one.suffix)
    assert any(len(suffixes) > 1 for suffixes in by_text.values())  # another place in the second pass


def test_cuts_go_on_from_their_state(tokenizer: Tokenizer) -> None:
    texts = [f"{n} {WORDS * (n % 3)}" for n in range(30)]
    every = cuts_of(texts, tokenizer, epochs=0).take(60)
    for taken in (0, 1, 7, 33):
        one, other = cuts_of(texts, tokenizer, epochs=0), cuts_of(texts, tokenizer, epochs=0)
        one.take(taken)
        other.stream.restore(json.loads(json.dumps(one.stream.state)))
        assert other.take(60 - taken) == every[taken:]


def test_a_control_token_that_has_no_other_spelling_is_counted(tokenizer: Tokenizer) -> None:
    class Strict(Tokenizer):
        def encode_all(self, texts):
            return [self.encode(text) for text in texts]

        def encode(self, text):
            if "<bad>" in text:
                raise InputError("a control token")
            return super().encode(text)

    strict = Strict(tokenizer.backend, tokenizer.bos, tokenizer.eos)
    cuts = cuts_of([WORDS, f"<bad> {WORDS}", WORDS], strict, epochs=1)
    assert len(cuts.take(9)) == 2
    assert cuts.stream.dropped == {"control_token": 1}


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_suffix_longer_than_any_document_is_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 100)
    asked = replace(ASKED, suffix=200, length=300)
    with pytest.raises(InputError, match=r"too_short.*202 tokens: lower selfimprove.suffix \(200\)"):
        cuts_of([WORDS] * 20, tokenizer, asked, epochs=epochs).take(4)


def test_a_prefix_that_has_no_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"selfimprove\.shortest_prefix is 13"):
        cuts_of([WORDS], tokenizer, replace(ASKED, shortest_prefix=13))
