"""Labelled texts made of documents, for judges and rewriters to learn from."""

from pydantic import PositiveInt, model_validator

from pretrainrl_jax.config.declare import Names, Section, section, setting, wrong

CORRUPTIONS = (
    "corrupt_facts",
    "corrupt_thread",
    "corrupt_repetition",
    "corrupt_contradiction",
    "corrupt_style",
)


@section
class MakingConfig(Section):
    """`selfimprove --make judge-data|unsafe-data`: how much is made, and how.

    No stage of a run depends on it: what is made says itself what it was made with.
    """

    documents: PositiveInt = setting(
        1000, "documents of the stream that are worked on; of sources without end at most one pass"
    )
    batch: PositiveInt = setting(64, "documents between two saves")
    samples: PositiveInt = setting(8, "verdicts of the judge on each text, which must all agree")
    corruptions: Names = setting(
        CORRUPTIONS,
        "prompts that spoil a suffix, by the names of their files, with commas between: each document gets "
        "one, in turn by its number",
    )
    blocklist: str = setting("", "file of words that unsafe documents hold, one a line; empty: ours")
    blocked: PositiveInt = setting(5, "such words that a document holds at least, repeated ones counted")

    @model_validator(mode="after")
    def _fits(self) -> "MakingConfig":
        if not self.corruptions or len(set(self.corruptions)) < len(self.corruptions):
            raise wrong("making.corruptions", self.corruptions, "name one or more, each once")
        return self
