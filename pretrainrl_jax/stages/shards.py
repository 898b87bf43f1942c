"""Long work on many questions in parts: each part's results are kept in a file until the stage ends."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.progress import NORMAL, Screen, Track
from pretrainrl_jax.storage import remove_tree

Item = TypeVar("Item")
Result = TypeVar("Result")
Json = Any
FORMAT = 2  # 2: an answer's log-probability counts all its terminators


def resumable_map(
    folder: Path,
    provenance: Json,
    items: Sequence[Item],
    lengths: Sequence[int],
    size: int,
    work: Callable[[list[Item]], list[Json]],
    read: Callable[[Item, Json], Result],
    bar: Track,
    units: int = 1,
    metrics: Callable[[list[Result]], dict[str, float]] = lambda results: {},
    screen: Screen = NORMAL,
) -> list[Result]:
    """Each item's result. A part that an interrupted run has finished is read instead of done again.

    The parts do not depend on where a run was interrupted, so neither do the results.

    Args:
        folder: where the parts' files go; the caller removes it when the stage is finished.
        provenance: JSON of everything the results depend on; files made with something else are removed.
        items, lengths: those of like length come into one part of `size`, so that they fill its batches.
        work, read: the JSON of each item of a part, while `bar` is advanced; and the result that one means.
        bar, units: told of items whose results are read, and of the metrics; `units` are one item's.
        metrics: means over a part's results; the bar shows those over all parts so far.
    """
    provenance = {"of": provenance, "items": len(items), "items of a part": size, "format": FORMAT}
    order = sorted(range(len(items)), key=lambda place: lengths[place])
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    paths = [folder / f"{number:06d}.json" for number in range(len(parts))]

    def begin() -> list[int]:
        """The numbers of the parts that are done."""
        stamp = folder / "made_with.json"
        if folder.is_dir() and read_json(stamp) != provenance:
            screen.say(f"{folder.name}: what an earlier run left there is of something else, and is removed")
            remove_tree(folder)
        if not stamp.is_file():
            write_json(stamp, provenance)
        return [
            number for number, part in enumerate(parts) if len(read_json(paths[number]) or ()) == len(part)
        ]

    # Process 0 decides what is still to be done, so that all work on the same parts, and writes all of them:
    # every process has all results.
    done = set(run_on_process_0(begin, f"reading {folder.name}"))
    results: dict[int, Result] = {}
    sums: Counter[str] = Counter()
    for number, (path, places) in enumerate(zip(paths, parts, strict=True)):
        if number in done:
            of_part = read_json(path)
            bar.skip(units * len(places))
        else:
            of_part = work([items[place] for place in places])
            if is_process_0():
                write_json(path, of_part, indent=None)
            screen.detail(f"{path}: {len(places)} results")
        read_results = [read(items[place], result) for place, result in zip(places, of_part, strict=True)]
        results |= zip(places, read_results, strict=True)
        sums.update({name: len(places) * mean for name, mean in metrics(read_results).items()})
        bar.show(**{name: total / len(results) for name, total in sums.items()})
    return [results[place] for place in range(len(items))]


def read_json(path: Path) -> Json:
    """What a file holds; None where there is none, or nothing that can be read."""
    with suppress(FileNotFoundError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None
