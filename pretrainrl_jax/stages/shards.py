"""Long work on many questions in parts: each part's results are kept in a file until the stage ends."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.context import Context, read_json
from pretrainrl_jax.storage import remove_tree
from pretrainrl_jax.trees.records import digest
from pretrainrl_jax.trees.tree import AnswerTree

Item = TypeVar("Item")
Json = Any
Work = Callable[[list[AnswerTree], Callable[[int], None]], list[Json]]
FORMAT = 2  # 2: an answer's log-probability counts all its terminators


def in_parts(
    context: Context,
    folder: Path,
    provenance: Json,
    items: Sequence[Item],
    lengths: Sequence[int],
    work: Callable[[list[Item], Callable[[int], None]], list[Json]],
    label: str,
    unit: str,
    read: Callable[[Item, Json], Any] = lambda item, result: result,
    units: int = 1,
) -> list[Any]:
    """Each item's result. A part that an interrupted run has finished is read instead of done again.

    The parts do not depend on where a run was interrupted, so neither do the results.

    Args:
        folder: where the parts' files go; the caller removes it when the stage is finished.
        provenance: JSON of everything the results depend on; files made with something else are removed.
        lengths: items of like length come into one part, so that they fill its batches.
        work: the JSON of each item of a part, given that part and what advances the bar.
        label, unit, units: of the bar, and how many units one item is.
    """
    screen, size = context.screen, context.config.checkpoint.shard_questions
    provenance = {"of": provenance, "items": len(items), "items of a part": size, "format": FORMAT}
    order = sorted(range(len(items)), key=lambda place: lengths[place])
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    paths = [folder / f"{number:06d}.json" for number in range(len(parts))]

    def begin() -> list[int]:
        """The numbers of the parts that are done."""
        mark(folder, provenance, "something else", screen)
        return [
            number for number, part in enumerate(parts) if len(read_json(paths[number]) or ()) == len(part)
        ]

    # Process 0 decides what is still to be done, so that all work on the same parts, and writes all of them:
    # every process has all results.
    done = set(run_on_process_0(begin, f"reading {folder.name}"))
    results: dict[int, Any] = {}
    with screen.track(label, units * len(items), unit) as bar:
        for number, (path, places) in enumerate(zip(paths, parts, strict=True)):
            if number in done:
                of_part = read_json(path)
                bar.skip(units * len(places))
            else:
                of_part = work([items[place] for place in places], bar.advance)
                if is_process_0():
                    write_json(path, of_part, indent=None)
                screen.detail(f"{path}: {len(places)} results")
            results |= {p: read(items[p], result) for p, result in zip(places, of_part, strict=True)}
    return [results[place] for place in range(len(items))]


def score_in_parts(
    context: Context, folder: Path, made_with: Json, trees: Sequence[AnswerTree], work: Work, *told: Any
) -> list[Any]:
    """What `work` gives for each tree; `told` are label and unit. The trees are among what it depends on."""
    lengths = [tree.inputs for tree in trees]
    return in_parts(context, folder, [made_with, digest(trees)], trees, lengths, work, *told)


def mark(folder: Path, provenance: Json, other: str, screen: Screen) -> None:
    """Say in a folder of parts what they are made with; those that are of something `other` are removed."""
    stamp = folder / "made_with.json"
    if folder.is_dir() and read_json(stamp) != provenance:
        screen.say(f"{folder.name}: what an earlier run left there is of {other}, and is removed")
        remove_tree(folder)
    if not stamp.is_file():
        write_json(stamp, provenance)


def with_references(trees: Sequence[AnswerTree], scores: Sequence[Sequence[float]]) -> list[AnswerTree]:
    """The trees with a reference log-probability at each branch."""
    return [
        replace(t, branches=tuple(replace(b, reference_logp=x) for b, x in zip(t.branches, row, strict=True)))
        for t, row in zip(trees, scores, strict=True)
    ]
