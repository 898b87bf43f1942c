"""The order of a stream: each document as often as asked, the same from any state, for any processes."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pretrainrl_jax.config import DocumentsConfig
from pretrainrl_jax.documents import stream as module
from pretrainrl_jax.documents.stream import Document, Stream
from pretrainrl_jax.errors import InputError

SIZES = {"a.txt": 23, "b.jsonl": 40, "c.parquet": 11}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources, one of two files."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("sources")
    (path / "a.txt").write_text("\n\n".join(f"a{n}" for n in range(23)))
    (path / "b").mkdir()
    lines = [json.dumps({"text": f"b{n}"} if n % 5 else {}) for n in range(50)]
    (path / "b" / "1.jsonl").write_text("\n".join(lines[:30]))
    (path / "b" / "2.jsonl").write_text("\n".join(lines[30:]))
    pq.write_table(pa.table({"text": [f"c{n}" for n in range(11)]}), path / "c.parquet", row_group_size=4)
    return path


def opened(folder: Path, seed: int = 1, **changes) -> Stream:
    names = ("a.txt", "b", "c.parquet")
    values: dict[str, Any] = {"path": tuple(str(folder / name) for name in names), "shuffle": 8, "epochs": 2}
    return Stream(DocumentsConfig(**(values | changes)), seed)


def test_each_document_comes_as_often_as_there_are_passes(folder: Path) -> None:
    source = opened(folder, epochs=3)
    every = source.take(1000)
    counts = Counter(document.text for document in every)
    assert set(counts.values()) == {3}
    assert Counter(text[0] for text in counts) == {"a": 23, "b": 40, "c": 11}
    assert source.dropped == {"no_column": 30}
    assert source.ended
    assert source.take(1) == []
    numbers = [document.number for document in every]
    assert numbers == sorted(set(numbers))
    assert max(numbers) < 3 * (23 + 50 + 11)


def test_the_order_is_of_the_seed_and_another_one_in_each_pass(folder: Path) -> None:
    every = opened(folder).take(1000)
    assert every == opened(folder).take(1000)
    assert every != opened(folder, seed=2).take(1000)
    of_a = [document.text for document in every if document.text[0] == "a"]
    assert of_a[:23] != of_a[23:]
    kept = [d.text for d in opened(folder, shuffle=0).take(1000) if d.text[0] == "a"]
    assert kept == [f"a{n}" for n in range(23)] * 2


@pytest.mark.parametrize("size", [1, 5, 8, 23, 100])
def test_a_document_stays_in_its_window(folder: Path, size: int) -> None:
    source = Stream(DocumentsConfig((str(folder / "a.txt"),), shuffle=size, epochs=1), 3)
    numbers = [int(document.text[1:]) for document in source.take(99)]
    for start in range(0, 23, size):
        window = numbers[start : start + size]
        assert sorted(window) == list(range(start, min(start + size, 23)))
    assert (numbers == sorted(numbers)) == (size == 1)


def test_sources_have_their_shares_all_along(folder: Path) -> None:
    """Those that go on keep their proportions when one has ended."""
    source = opened(folder, weights=(4, 1, 1), epochs=0)
    names = Counter(document.text[0] for document in source.take(600))
    assert names["a"] == pytest.approx(412, abs=4)  # b loses a fifth of its records
    drawn = source.state["records"]["drawn"]
    assert drawn[0] == pytest.approx(4 * drawn[1], abs=4)
    assert drawn[1] == pytest.approx(drawn[2], abs=1)
    texts = [document.text[0] for document in opened(folder, weights=(4, 1, 1), epochs=1).take(99)]
    assert texts[:4].count("a") >= 3
    assert "a" not in texts[35:]


@settings(deadline=None, max_examples=25)
@given(
    takes=st.lists(st.integers(0, 60), max_size=4),
    shuffle=st.sampled_from([0, 1, 3, 8, 1000]),
    epochs=st.sampled_from([0, 1, 2]),
    weights=st.sampled_from([(), (1, 2, 3), (0.5, 0.1, 0.1)]),
)
def test_a_stream_goes_on_from_any_state(
    folder: Path, takes: list[int], shuffle: int, epochs: int, weights: tuple
) -> None:
    """In the middle of a pass, a window and a mixture, whatever was asked for at once."""

    def again() -> Stream:
        return opened(folder, shuffle=shuffle, epochs=epochs, weights=weights)

    expected, source, taken = again().take(sum(takes) + 30), again(), []
    for n in takes:
        taken += source.take(n)
        resumed = again()
        resumed.restore(json.loads(json.dumps(source.state)))
        assert resumed.state == source.state
        source = resumed
    assert taken + source.take(30) == expected
    whole = again()
    whole.take(sum(takes) + 30)
    assert whole.dropped == source.dropped


def test_made_texts_are_a_source_like_the_others() -> None:
    made = [f"text {n}" for n in range(50)]
    source = Stream(DocumentsConfig(epochs=1, shuffle=10), 1, made)
    every = source.take(99)
    assert sorted(document.text for document in every) == sorted(made)
    other, resumed = (Stream(DocumentsConfig(epochs=1, shuffle=10), 1, made) for _ in range(2))
    other.take(17)
    resumed.restore(other.state)
    assert resumed.take(99) == every[17:]
    assert source.identity != Stream(DocumentsConfig(), 1, made[1:]).identity


def test_what_is_not_drawn_is_not_read(tmp_path: Path) -> None:
    """Of a stream larger than memory no more than a window."""
    read = []

    class Texts(list):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return f"text {index}"

        def __len__(self) -> int:
            return 10**12

        def __iter__(self) -> Any:
            return iter(())

    source = Stream(DocumentsConfig(shuffle=16), 1, Texts([0]))
    assert len(source.take(20)) == 20
    assert max(read) < 200  # two windows and what Grain fetches ahead


def in_processes(count: int, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each of several threads that count as processes gives."""
    here, barrier = threading.local(), threading.Barrier(count)
    said: dict[int, Any] = {}
    results: list[Any] = [None] * count

    def gather(value: Any, what: str) -> list[Any]:
        said[here.index] = json.loads(json.dumps(value))
        barrier.wait(60)
        every = [said[i] for i in range(count)]
        barrier.wait(60)
        return every

    def run(index: int) -> None:
        here.index = index
        results[index] = work()

    monkeypatch.setattr(module, "gather", gather)
    monkeypatch.setattr(module, "process_count", lambda: count)
    monkeypatch.setattr(module, "process_index", lambda: here.index)
    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_the_work_and_make_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    worked: list[str] = []

    def lengths(documents: list[Document]) -> list[tuple[Any, str]]:
        worked.extend(document.text for document in documents)
        return [
            ([len(d.text), d.number], "") if d.text[-1] != "3" else (None, "too_short") for d in documents
        ]

    def work() -> Any:
        source = opened(folder)
        made = [source.make(n, lengths) for n in (20, 1, 30)]
        return made, source.state, source.dropped

    alone, alone_worked = work(), list(worked)
    worked.clear()
    together = in_processes(count, work, monkeypatch)
    assert together == [alone] * count
    assert sorted(worked) == sorted(alone_worked)  # each once, by one of them
    assert alone[2]["too_short"] > 3


def test_a_stream_of_no_use_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 100)

    def nothing(documents: list[Document]) -> list[tuple[Any, str]]:
        return [(None, "too_short")] * len(documents)

    for epochs in (0, 1):
        with pytest.raises(InputError, match=r"no use for any of .*too_short.*: make them longer$"):
            opened(folder, epochs=epochs).make(10, nothing, "make them longer")


def test_a_state_of_other_sources_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="3 sources where the saved stream had 1"):
        opened(folder).restore(Stream(DocumentsConfig((str(folder / "b"),)), 1).state)


def test_weights_are_one_for_each_source() -> None:
    for weights, said in (((1.0,), "one for each of the 2 sources"), ((1.0, 0.0), "leave out a source")):
        with pytest.raises(ValidationError, match=said):
            DocumentsConfig(path=("a.txt", "b.txt"), weights=weights)
