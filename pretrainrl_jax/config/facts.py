"""What is learned from: facts and the texts about them, preferences, documents."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from pretrainrl_jax.config.declare import (
    Names,
    Numbers,
    Section,
    Share,
    ShareBelowOne,
    Vocabulary,
    section,
    setting,
    wrong,
)


@section
class ColumnsConfig(Section):
    """Which column of a file holds what. All empty: PopQA's columns and the usual names are recognised.

    A dot reaches into nested values and lists, as in `answer.aliases` or `output.answer`.
    """

    results = ("pretrain",)
    question: str = setting("", "column of the question; where it is blank or absent, facts.questions asks")
    answer: str = setting("", "column of the canonical answer, the one that is trained")
    answers: str = setting("", "columns of every true answer, with commas between: lists or text")
    category: str = setting("", "column of the relation")
    subject: str = setting("", "column of the subject's name")
    subject_key: str = setting("", "column of the subject's id: facts of one subject share their truths")
    popularity: str = setting("", "column of how often the subject is looked for")
    answer_popularity: str = setting("", "column of how often the answer is looked for")
    id: str = setting("", "column of the row's own id")
    rewordings: str = setting("", "column of a list of other wordings of the question (train.wordings)")


@section
class FactsConfig(Section):
    """What is to be known: any file or data set of questions and answers."""

    results = ("pretrain",)
    path: str = setting(
        "",
        "file or folder, tfds:NAME/CONFIG or hf:NAME (docs/facts.md); local or gs://; empty: the small world",
    )
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "entityquestions"] = setting(
        "auto", "what the file is; auto goes by its name"
    )
    split: str = setting("train", "split of an EntityQuestions folder, a tfds: or an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    encoding: str = setting("utf-8", "how the characters of a text file are written; a BOM is skipped")
    quoting: Literal["auto", "quoted", "none"] = setting(
        "auto", "quotation marks of .csv and .tsv: quoted as usual, or none, where they are text"
    )
    records: str = setting("", "name of the list of rows in a .json file that holds several, as data.items")
    columns: ColumnsConfig = ColumnsConfig()
    questions: Names = setting(
        (), "templates for rows without a question, as 'What is the {p} of {s}?', 'capital=Who governs {s}?'"
    )
    rewordings: Names = setting((), "further templates, as 'Name the {p} of {s}.' (train.wordings)")
    reversed: Names = setting(
        (), "templates that ask about an answer, as 'Which land has {a} as its {p}?'", results=("evaluate",)
    )
    answer_separator: str = setting("", "what separates several answers written as one text, as '|' or '\\n'")
    nulls: Names = setting(
        ("None", "nan", "NaN", "NULL", "null", "<NA>", "NaT", "#N/A"),
        "cells that read so are blank (NA, which is Namibia's sign, is not among them)",
        before=(),
    )
    categories: Names = setting((), "keep only these categories; empty keeps all")
    duplicates: Literal["merge", "keep", "drop"] = setting(
        "merge", "rows that ask the same of one category: one with all answers, each kept, or all left out"
    )
    examples: Literal["common", "other_categories"] = setting(
        "other_categories", "shown by few-shot prompts: the same to all, or those of others", before="common"
    )
    limit: NonNegativeInt = setting(0, "keep so many facts, drawn by a hash of seed and id; 0: all")
    head: NonNegativeInt = setting(
        0, "best-known facts beyond facts.limit: asked, never trained", results=("evaluate",)
    )
    holdout_every: NonNegativeInt = setting(6, "one question in n, by hash, is evaluated alone; 0: none")

    def _fits(self) -> None:
        if self.holdout_every == 1:
            raise wrong("facts.holdout_every", 1, "use 0 to hold out none, or 2 or more")
        if self.head and not self.limit:
            raise wrong("facts.head", self.head, "facts.limit leaves none out: set it, or leave this 0")


@section
class WorldConfig(Section):
    """The synthetic world, used when facts.path is empty."""

    results = ("pretrain",)
    facts: PositiveInt = setting(2400, "number of facts")
    relations: PositiveInt = setting(8, "number of relations (question categories)")
    answers: PositiveInt = setting(80, "possible answers of each relation")
    popularity_exponent: NonNegativeFloat = setting(1.5, "popularity of rank r is (r + offset) ** -exponent")
    popularity_offset: NonNegativeFloat = setting(10.0, "see popularity_exponent")
    head_share: Share = setting(0.15, "share of facts, most popular first, that count as the head")
    head_zipf: NonNegativeFloat = setting(1.2, "Zipf exponent of the answers of head facts")
    tail_zipf: NonNegativeFloat = setting(0.4, "Zipf exponent of the answers of tail facts")


@section
class CorpusConfig(Section):
    """The text a base model is pretrained on: the facts put into words, as often as they are popular."""

    results = ("pretrain",)
    statements: NonNegativeInt = setting(16000, "sentences that state a fact")
    filler: NonNegativeInt = setting(4000, "sentences about nothing in the fact set")
    question_share: Share = setting(0.4, "share of statements in the form 'question answer'")
    paraphrase_share: Share = setting(0.5, "share of those that ask in the wording training never uses")
    popularity_power: NonNegativeFloat = setting(1.0, "a fact is stated in proportion to popularity ** power")
    held_out_share: ShareBelowOne = setting(0.05, "share of sentences kept back to measure loss on text")


@section
class TokenizerConfig(Section):
    """What text is cut into."""

    results = ("pretrain",)
    path: str = setting("", "folder of an existing tokenizer; empty trains one on the corpus")
    vocabulary: Vocabulary = setting(2048, "size of a trained vocabulary, special tokens included")


@section
class PreferenceColumnsConfig(Section):
    """Which column of a file holds what. All empty: the usual names are recognised.

    A dot reaches into nested values, as in `pair.chosen`.
    """

    results = ("pretrain",)
    prompt: str = setting("", "column of the prompt; without one it is what the answers begin with")
    chosen: str = setting("", "column of the better answer, a text or messages, or a list of these")
    rejected: str = setting("", "column of the worse answer, or of a list of them")


@section
class PreferencesConfig(Section):
    """Preferences to train on instead of facts: the pairs of a file, as TRL's DPOTrainer reads it."""

    results = ("pretrain",)
    path: str = setting("", ".jsonl .json .csv .tsv .parquet, tfds:NAME/CONFIG or hf:NAME; local or gs://")
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet"] = setting(
        "auto", "what the file is; auto goes by its name"
    )
    split: str = setting("train", "split of a tfds: or an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    encoding: str = setting("utf-8", "how the characters of a text file are written; a BOM is skipped")
    quoting: Literal["auto", "quoted", "none"] = setting("auto", "quotation marks, as in facts")
    records: str = setting("", "name of the list of rows in a .json file that holds several, as data.items")
    columns: PreferenceColumnsConfig = PreferenceColumnsConfig()
    control_tokens: bool = setting(False, "texts may spell control tokens; otherwise such rows are left out")
    limit: NonNegativeInt = setting(0, "keep this many prompts, drawn by a hash of seed and prompt; 0: all")
    holdout_every: NonNegativeInt = setting(10, "one prompt in n, by hash, is evaluated alone; 0: none")

    def _fits(self) -> None:
        if self.holdout_every == 1:
            raise wrong("preferences.holdout_every", 1, "use 0 to hold out none, or 2 or more")


@section
class DocumentsConfig(Section):
    """A stream of documents: files, data sets, or the small world's own texts."""

    results = ("selfimprove", "documents")
    path: Names = setting((), "sources, with commas between (docs/documents.md); empty: about the facts")
    weights: Numbers = setting((), "how often each source is drawn from, in proportion; empty: in turn")
    column: str = setting("text", "column or key of a document's text; a dot reaches into nested values")
    split: str = setting("train", "split of a tfds: or an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    separator: Literal["blank_lines", "line", "file"] = setting(
        "blank_lines", "what ends a document of .txt: blank lines, each line, or its end"
    )
    encoding: str = setting("utf-8", "how the characters of a text file are written; a BOM is skipped")
    shuffle: NonNegativeInt = setting(1000, "documents of a source that are shuffled together; 0: none")
    epochs: NonNegativeInt = setting(0, "passes over the sources; 0: without end")
    longest: PositiveInt = setting(1_000_000, "characters of a document at most; the rest is not read")
    count: PositiveInt = setting(4000, "documents made of the facts, where path is empty")
    sentences: PositiveInt = setting(6, "sentences of such a document")
    false_share: Share = setting(0.2, "share of its statements that are false")
    held_out: PositiveInt = setting(200, "documents made beside these, all true, to measure on")

    def _fits(self) -> None:
        if self.weights and len(self.weights) != len(self.path):
            meaning = f"give one for each of the {len(self.path)} sources of documents.path, or none"
            raise wrong("documents.weights", self.weights, meaning)
        if 0 in self.weights:
            raise wrong("documents.weights", self.weights, "leave out a source that is never drawn from")
