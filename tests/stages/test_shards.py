"""Long work in parts: what is finished is read, never done again, and never taken for something else."""

import json
from pathlib import Path

import pytest

from pretrainrl_jax.progress import NORMAL, Screen, track
from pretrainrl_jax.stages.shards import in_shards

WORDS = ["five!", "a", "four", "to", "the", "eleven char", "b", "sixsix"]


class Work:
    """Doubles words, and notes which; stops before one."""

    def __init__(self, stop_before: str = "") -> None:
        self.parts: list[list[str]] = []
        self.stop_before = stop_before

    def __call__(self, part: list[str]) -> list[list[str]]:
        if self.stop_before in part:
            raise KeyboardInterrupt
        self.parts.append(part)
        return [[word, word] for word in part]


def run(folder: Path, work: Work, words=tuple(WORDS), made_with="model 1", size=3, screen: Screen = NORMAL):
    with track("test", len(words), "words") as bar:
        return in_shards(folder, made_with, words, [len(w) for w in words], size, work, bar, screen=screen)


EXPECTED = [[word, word] for word in WORDS]


def test_results_come_in_the_order_of_the_items_and_parts_by_length(tmp_path: Path) -> None:
    work = Work()
    assert run(tmp_path / "parts", work) == EXPECTED
    assert work.parts == [["a", "b", "to"], ["the", "four", "five!"], ["sixsix", "eleven char"]]


def test_finished_parts_are_not_done_again(tmp_path: Path) -> None:
    first, second = Work(stop_before="sixsix"), Work()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", first)
    assert run(tmp_path / "parts", second) == EXPECTED
    assert first.parts == [["a", "b", "to"], ["the", "four", "five!"]]
    assert second.parts == [["sixsix", "eleven char"]]


@pytest.mark.parametrize(
    "change", [{"made_with": "model 2"}, {"size": 4}, {"words": ("a", "b", "to", "the")}]
)
def test_parts_of_something_else_are_removed_and_that_is_said(
    change: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Work(stop_before="sixsix"))
    work = Work()
    words = change.get("words", WORDS)
    assert run(tmp_path / "parts", work, **change) == [[word, word] for word in words]
    assert sorted(word for part in work.parts for word in part) == sorted(words)
    said = "parts: what an earlier run left there is of something else, and is removed\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("content", ["", '[["a", "a"], ["b"', '[["a", "a"]]'])
def test_a_part_that_cannot_be_read_is_done_again(content: str, tmp_path: Path) -> None:
    assert run(tmp_path / "parts", Work()) == EXPECTED
    (tmp_path / "parts" / "000000.json").write_text(content)
    work = Work()
    assert run(tmp_path / "parts", work) == EXPECTED
    assert work.parts == [["a", "b", "to"]]


def test_what_a_part_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it was computed or read: running means must cover both. Verbose names each file."""
    seen: list[tuple[list[int], list]] = []
    for _ in range(2):
        with track("test", 8, "words") as bar:
            in_shards(
                tmp_path / "parts",
                {"any": "JSON"},
                WORDS,
                [len(w) for w in WORDS],
                3,
                Work(),
                bar,
                taken=lambda *told: seen.append(told),
                screen=Screen(verbose=True),
            )
    assert seen[:3] == seen[3:]
    assert seen[0] == ([1, 6, 3], [["a", "a"], ["b", "b"], ["to", "to"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{tmp_path / 'parts' / f'{n:06d}.json'}: {size} results" for n, size in enumerate([3, 3, 2])
    ]


def test_nothing_to_do(tmp_path: Path) -> None:
    assert run(tmp_path / "parts", Work(), words=()) == []
    assert json.loads((tmp_path / "parts" / "made_with.json").read_text())["items"] == 0
