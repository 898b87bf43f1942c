"""Preferences that a file states: which answer is better than which."""

from typing import Literal

from pydantic import NonNegativeInt, model_validator

from pretrainrl_jax.config.declare import Section, section, setting, wrong


@section
class PreferenceColumnsConfig(Section):
    """Which column of a file holds what. All empty: the usual names are recognised.

    A dot reaches into nested values, as in `pair.chosen`.
    """

    results = ("pretrain",)
    prompt: str = setting(
        "", "column of the prompt, a text or messages; without one it is the common beginning of the answers"
    )
    chosen: str = setting("", "column of the better answer, a text or messages, or a list of these")
    rejected: str = setting("", "column of the worse answer, or of a list of them")


@section
class PreferencesConfig(Section):
    """Preferences to train on instead of facts: the pairs of a file, as TRL's DPOTrainer reads it."""

    results = ("pretrain",)
    path: str = setting(
        "", ".jsonl .json .csv .tsv .parquet, tfds:NAME/CONFIG or hf:NAME; local or gs://; empty: facts"
    )
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet"] = setting(
        "auto", "what the file is; auto goes by its name"
    )
    split: str = setting("train", "split of a tfds: or an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    encoding: str = setting("utf-8", "how the characters of a text file are written; a BOM is skipped")
    quoting: Literal["auto", "quoted", "none"] = setting(
        "auto", "quotation marks of .csv and .tsv, as in facts"
    )
    records: str = setting("", "name of the list of rows in a .json file that holds several, as data.items")
    columns: PreferenceColumnsConfig = PreferenceColumnsConfig()
    control_tokens: bool = setting(
        False,
        "texts may spell control tokens, as where a chat template was applied to them before; otherwise a "
        "row that does is left out",
    )
    limit: NonNegativeInt = setting(0, "keep this many prompts, drawn by a hash of seed and prompt; 0: all")
    holdout_every: NonNegativeInt = setting(
        10, "one prompt in n, by its hash, is never trained on, only evaluated; 0 holds none out"
    )

    @model_validator(mode="after")
    def _fits(self) -> "PreferencesConfig":
        if self.holdout_every == 1:
            raise wrong("preferences.holdout_every", 1, "use 0 to hold out none, or 2 or more")
        return self
