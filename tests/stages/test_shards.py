"""Work in parts: the results are those of one go, whatever was interrupted and wherever."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.shards import in_parts


class Bar:
    """Counts like a progress bar."""

    def __init__(self) -> None:
        self.skipped = 0

    def advance(self, n: int) -> None:
        """What is worked on."""

    def skip(self, n: int) -> None:
        self.skipped += n


@dataclass(frozen=True)
class Seen(Screen):
    """A screen that keeps its bar."""

    bar: Bar = field(default_factory=Bar)

    def track(self, label: str, total: int, unit: str) -> Any:
        return nullcontext(self.bar)


class Killed(BaseException):
    """As if the process had ended."""


class Worker:
    """Reverses texts; is killed after so many parts."""

    def __init__(self, parts: int | None = None) -> None:
        self.parts, self.seen = parts, list[list[str]]()

    def __call__(self, part: list[str], advance: Callable[[int], None]) -> list[Any]:
        if len(self.seen) == self.parts:
            raise Killed
        self.seen.append(part)
        return [text[::-1] for text in part]


def run(
    folder: Path,
    items: list[str],
    size: int,
    worker: Worker,
    provenance: Any = 1,
    verbose: bool = False,
    **more: Any,
) -> Any:
    screen, lengths = Seen(verbose=verbose), list(map(len, items))
    config = SimpleNamespace(checkpoint=SimpleNamespace(shard_questions=size))
    context: Any = SimpleNamespace(screen=screen, config=config)
    results = in_parts(context, folder, provenance, items, lengths, worker, "x", "texts", read, **more)
    return results, screen.bar


def read(item: str, result: str) -> str:
    """A result's JSON is the result."""
    assert result == item[::-1]
    return result


@settings(max_examples=60, deadline=None)
@given(items=some.lists(some.text(max_size=6), max_size=30), size=some.integers(1, 8), data=some.data())
def test_an_interrupted_run_ends_with_the_same_and_repeats_no_finished_part(
    items: list[str], size: int, data: some.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards") / "x"
    parts = -(-len(items) // size)
    done = data.draw(some.integers(0, max(0, parts - 1)))
    stopped, second = Worker(done), Worker()
    if done < parts:
        with pytest.raises(Killed):
            run(folder, items, size, stopped)
    results, bar = run(folder, items, size, second, units=3)
    assert results == [text[::-1] for text in items]
    assert len(stopped.seen) + len(second.seen) == parts
    worked = sorted(text for part in stopped.seen + second.seen for text in part)
    assert worked == sorted(items)
    assert bar.skipped == 3 * sum(map(len, stopped.seen))


def test_a_part_has_items_of_like_length(tmp_path: Path) -> None:
    worker = Worker()
    run(tmp_path / "x", ["aaaa", "b", "cccc", "d", "ee"], 2, worker)
    assert worker.seen == [["b", "d"], ["ee", "aaaa"], ["cccc"]]


def test_what_was_made_with_something_else_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, items = tmp_path / "x", ["abc", "d"]
    run(folder, items, 1, Worker(), provenance={"model": 1})
    again = Worker()
    run(folder, items, 1, again, provenance={"model": 2})
    assert len(again.seen) == 2
    assert "is of something else, and is removed" in capsys.readouterr().out
    kept = Worker()
    run(folder, items, 1, kept, provenance={"model": 2})
    assert kept.seen == []


def test_half_a_file_is_no_part(tmp_path: Path) -> None:
    folder, items = tmp_path / "x", ["abc", "d"]
    run(folder, items, 1, Worker())
    part = folder / "000001.json"
    part.rename(folder / "000001.json.partial")  # as a kill within the write leaves it
    again = Worker()
    results, _ = run(folder, items, 1, again)
    assert (results, again.seen) == (["cba", "d"], [["abc"]])


@pytest.mark.parametrize("content", ["", '["d", "a', "[]"])
def test_a_part_that_cannot_be_read_is_made_again(content: str, tmp_path: Path) -> None:
    folder, items = tmp_path / "x", ["abc", "d"]
    run(folder, items, 1, Worker())
    (folder / "000001.json").write_text(content)
    again = Worker()
    results, _ = run(folder, items, 1, again)
    assert (results, again.seen) == (["cba", "d"], [["abc"]])


@pytest.mark.parametrize(("items", "size"), [(["abc", "d", "ef"], 2), (["abc", "d"], 1)])
def test_other_parts_of_other_items_are_not_read(items: list[str], size: int, tmp_path: Path) -> None:
    """checkpoint.shard_questions may be another when a run goes on."""
    folder = tmp_path / "x"
    run(folder, ["abc", "d", "ef"], 1, Worker())
    again = Worker()
    results, _ = run(folder, items, size, again)
    assert results == [text[::-1] for text in items]
    assert sum(map(len, again.seen)) == len(items)


def test_every_file_is_named_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "x", ["abc", "d", "ef"], 2, Worker(), verbose=True)
    sizes = [line.removeprefix(f"{tmp_path / 'x'}/") for line in capsys.readouterr().out.splitlines()]
    assert sizes == ["000000.json: 2 results", "000001.json: 1 results"]
