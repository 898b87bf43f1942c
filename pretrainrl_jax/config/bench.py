"""Judges and prompts compared on labelled texts."""

from pydantic import NonNegativeInt, PositiveInt, model_validator

from pretrainrl_jax.config.declare import Names, Section, section, setting, wrong


@section
class BenchConfig(Section):
    """`judge --bench FILE`: which judges, which prompts, how many texts."""

    judges: Names = setting(
        (),
        "judges to compare, with commas between: a workdir, checkpoint or Hugging Face folder; or "
        "MODEL@URL of a server, MODEL@URL#VARIABLE where that variable holds its key",
    )
    prompts: Names = setting((), "prompts of each part by their names, with commas between; empty: all")
    limit: NonNegativeInt = setting(0, "texts of each part at most, drawn by the seed; 0 asks about all")
    orders: NonNegativeInt = setting(
        20, "texts of each part that are asked about once more with orders to the judge in them"
    )
    split: str = setting("train", "split of an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    batch: PositiveInt = setting(32, "prompts asked at a time")

    @model_validator(mode="after")
    def _fits(self) -> "BenchConfig":
        for judge in self.judges:
            name, at, _ = judge.partition("@http")
            if at and not name:
                raise wrong("bench.judges", judge, "say what the server calls the model: MODEL@URL")
        if len(set(self.judges)) < len(self.judges):
            raise wrong("bench.judges", self.judges, "name each once")
        return self
