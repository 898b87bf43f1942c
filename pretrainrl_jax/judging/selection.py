"""What is learned of judged candidates: which of them differ, which is the best and which the worst."""

from collections.abc import Sequence


def distinct(texts: Sequence[str]) -> list[int]:
    """Places of the texts that differ from all before them, in order: of equal texts the earliest stands."""
    places: dict[str, int] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, place)
    return list(places.values())


def select(scores: Sequence[float]) -> tuple[int, int] | None:
    """Places of the highest and of the lowest score, the earliest of equals; None where all are equal."""
    if len(set(scores)) < 2:
        return None
    best, worst = (pick(range(len(scores)), key=scores.__getitem__) for pick in (max, min))
    return best, worst
