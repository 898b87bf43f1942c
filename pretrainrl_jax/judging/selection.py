"""What is learned of judged candidates: which is the best and which the worst."""

from collections.abc import Sequence


def select(scores: Sequence[float]) -> tuple[int, int] | None:
    """Places of the highest and of the lowest score, the earliest of equals; None where all are equal."""
    if len(set(scores)) < 2:
        return None
    best, worst = (pick(range(len(scores)), key=scores.__getitem__) for pick in (max, min))
    return best, worst
