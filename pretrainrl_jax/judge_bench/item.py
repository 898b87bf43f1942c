"""What a judge is asked about."""

from typing import NamedTuple

from pretrainrl_jax.improvement.labels import TEXTS


class Item(NamedTuple):
    """Something that a judge is asked about, and what is right.

    Of quality the texts are the prefix, the better and the worse continuation, and there is one of them for
    both orders; else they are `labels.TEXTS`, and the label is the place of the right verdict, best first.
    """

    part: str
    texts: tuple[str, ...]
    label: int
    kind: str  # what the file says of it; "": nothing
    where: str

    @property
    def places(self) -> dict[str, str]:
        """Its texts by the names of a prompt's places; of a pair in the order better, worse."""
        return dict(zip(TEXTS[self.part], self.texts, strict=True))

    @property
    def key(self) -> str:
        """Equal of what is drawn together where an interval is: what shares a prefix."""
        return self.places.get("prefix") or "\n".join(self.texts)
