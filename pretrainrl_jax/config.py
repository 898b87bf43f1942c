"""Every setting of the system: typed and documented. Imports nothing heavy.

A configuration file is a Python file that defines `config`, a `Config`. Each field can be overridden on
the command line as `--section.key=value`; the text behind a field is its help.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal


def setting(default: Any, doc: str, shown: str = "") -> Any:
    """A dataclass field with its help text, and what formulas call it."""
    return field(default=default, metadata={"doc": doc, "shown": shown})


@dataclass(frozen=True)
class ColumnsConfig:
    """Which column of a file holds what. All empty: PopQA's columns and the usual names are recognised.

    A dot reaches into nested values, as in `answer.aliases`.
    """

    question: str = setting("", "column of the question; where it is blank or absent, facts.questions asks")
    answer: str = setting("", "column of the canonical answer, the one that is trained")
    answers: str = setting("", "column of every true answer: a list, a JSON list, or text")
    category: str = setting("", "column of the relation")
    subject: str = setting("", "column of the subject's name")
    subject_key: str = setting("", "column of the subject's id: facts of one subject share their truths")
    popularity: str = setting("", "column of how often the subject is looked for")
    answer_popularity: str = setting("", "column of how often the answer is looked for")
    id: str = setting("", "column of the row's own id")


@dataclass(frozen=True)
class FactsConfig:
    path: str = setting(
        "",
        "PopQA file, EntityQuestions folder, .csv .tsv .json .jsonl .parquet, tfds:NAME/CONFIG or hf:NAME; "
        "local or gs://; empty makes the synthetic world instead",
    )
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "entityquestions"] = setting(
        "auto", "what the file is; auto goes by its name"
    )
    split: str = setting("train", "split of an EntityQuestions folder, a tfds: or an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    encoding: str = setting("utf-8", "how the characters of a text file are written; a BOM is skipped")
    columns: ColumnsConfig = ColumnsConfig()
    questions: tuple[str, ...] = setting(
        (),
        "templates for rows without a question, as 'What is the {p} of {s}?': {p} is the category, {s} the "
        "subject; 'capital=Which city governs {s}?' is for one category",
    )
    answer_separator: str = setting("", "what separates several answers written as one text, as '|'")
    categories: tuple[str, ...] = setting((), "keep only these categories; empty keeps all")
    duplicates: Literal["merge", "keep", "drop"] = setting(
        "merge",
        "rows that ask the same question of the same category: their answers all become true of the first, "
        "each row is kept, or all of them are left out",
    )
    limit: int = setting(0, "keep this many facts, drawn by a hash of seed and id; 0 keeps all")
    holdout_every: int = setting(
        6, "one question in n, by its hash, is never trained on, only evaluated; 0 holds none out"
    )


@dataclass(frozen=True)
class WorldConfig:
    """The synthetic world, used when facts.path is empty."""

    facts: int = setting(2400, "number of facts")
    relations: int = setting(8, "number of relations (question categories)")
    answers: int = setting(80, "possible answers of each relation")
    popularity_exponent: float = setting(1.5, "popularity of rank r is (r + offset) ** -exponent")
    popularity_offset: float = setting(10.0, "see popularity_exponent")
    head_share: float = setting(0.15, "share of facts, most popular first, that count as the head")
    head_zipf: float = setting(1.2, "Zipf exponent of the answers of head facts")
    tail_zipf: float = setting(0.4, "Zipf exponent of the answers of tail facts")


@dataclass(frozen=True)
class CorpusConfig:
    """The text a base model is pretrained on: the facts put into words, as often as they are popular."""

    statements: int = setting(16000, "sentences that state a fact")
    filler: int = setting(4000, "sentences about nothing in the fact set")
    question_share: float = setting(0.4, "share of statements in the form 'question answer'")
    paraphrase_share: float = setting(
        0.5, "share of those that ask in the wording training never uses; 0 keeps it out of the corpus too"
    )
    popularity_power: float = setting(1.0, "a fact is stated in proportion to popularity ** power")
    held_out_share: float = setting(0.05, "share of sentences kept back to measure loss on text")


@dataclass(frozen=True)
class TokenizerConfig:
    path: str = setting("", "folder of an existing tokenizer; empty trains one on the corpus")
    vocabulary: int = setting(2048, "size of a trained vocabulary, special tokens included")


@dataclass(frozen=True)
class ModelConfig:
    path: str = setting(
        "", "Hugging Face folder or checkpoint to start from; empty starts from random weights"
    )
    family: Literal["llama", "mistral", "qwen2", "qwen3", "olmo2"] = setting(
        "qwen3", "architecture, as model/families.py describes it"
    )
    width: int = setting(128, "size of the residual stream")
    layers: int = setting(2, "number of layers")
    heads: int = setting(4, "query heads")
    kv_heads: int = setting(4, "key and value heads; divides heads")
    head_width: int = setting(32, "size of one head")
    mlp_width: int = setting(512, "hidden size of the gated MLP")
    vocabulary: int = setting(0, "rows of the embedding; 0 takes the tokenizer's size")
    rope_theta: float = setting(10000.0, "base of the rotary position embedding")
    norm_epsilon: float = setting(1e-6, "epsilon of RMS norms")
    tied: bool = setting(True, "the head is the embedding, transposed")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "compute dtype; parameters stay float32")
    remat: bool = setting(False, "recompute each layer's activations in the backward pass to save memory")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along three axes; one of them may be -1 and takes what the others leave."""

    data: int = setting(-1, "devices along the batch, each with all parameters")
    fsdp: int = setting(1, "devices along the batch that share each parameter along the model axis")
    tensor: int = setting(1, "devices that share heads, MLP and vocabulary")


@dataclass(frozen=True)
class HostsConfig:
    """Several processes as one run; each has a part of the devices. It changes no result."""

    coordinator: str = setting(
        "",
        "host:port of process 0, the same in all processes; empty takes what a TPU pod, Slurm, Open MPI or "
        "Kubernetes says, and one process where none does",
    )
    count: int = setting(0, "processes in all, where hosts.coordinator is given")
    index: int = setting(0, "number of this process, from 0")
    dead_seconds: float = setting(30.0, "a process of which nothing was heard for so long ends the run")
    stall_seconds: float = setting(
        900.0, "a wait for the other processes, or for the devices, that takes so long ends the run"
    )
    maintenance: bool = setting(
        True, "on Google Cloud a notice of maintenance or preemption counts as SIGTERM, on whichever host"
    )


@dataclass(frozen=True)
class PlatformConfig:
    """What is chosen for the kind of device (platforms.py), and what is to be chosen instead."""

    flags: tuple[str, ...] = setting(
        (), "XLA flags, as --xla_gpu_enable_latency_hiding_scheduler=false; they win over those chosen"
    )
    choose: bool = setting(True, "set the flags that platforms.py lists for this kind of device")
    attention: Literal["auto", "xla", "cudnn"] = setting(
        "auto", "kernel of attention; auto takes what platforms.py lists, where it can compute the model's"
    )


@dataclass(frozen=True)
class OptimizerConfig:
    weight_decay: float = setting(
        0.1, "decoupled decay of matrices (embeddings and head included, norms not)"
    )
    beta1: float = setting(0.9, "Adam's first moment")
    beta2: float = setting(0.95, "Adam's second moment")
    clip: float = setting(1.0, "largest global gradient norm")
    warmup: float = setting(0.03, "share of the updates spent warming up")
    final: float = setting(0.1, "learning rate at the end, as a share of the peak (cosine)")
    nonfinite: Literal["stop", "skip"] = setting(
        "stop",
        "where the loss or a gradient is not finite: stop and name the batch's questions, or leave that "
        "update out and count it",
    )


@dataclass(frozen=True)
class PretrainConfig:
    epochs: float = setting(1.0, "passes over the corpus; 0 trains nothing (with model.path)")
    learning_rate: float = setting(3e-3, "peak learning rate")
    row_length: int = setting(256, "tokens a packed row holds")
    rows: int = setting(2, "rows an update")
    accumulate: int = setting(1, "microsteps an update is cut into; divides rows")


@dataclass(frozen=True)
class MineConfig:
    """The base model's own falsehoods, and where else negatives may come from."""

    template: Literal["bare", "few_shot"] = setting("bare", "how the question is put to the model")
    sources: tuple[str, ...] = setting(
        ("beam",),
        "where negatives come from: beam (the question's own beams), pool (what the model answers most often "
        "in the category), popularity (the category's best-known answers); several are mixed in equal parts",
    )
    beams: int = setting(16, "beam width")
    max_new_tokens: int = setting(8, "longest answer, terminator included")
    batch: int = setting(16, "questions decoded at a time: few suit a CPU's cache, an accelerator wants more")
    negatives: int = setting(
        5, "negatives of a question: the most probable beams, or drawn anew at each visit from the candidates"
    )
    min_probability: float = setting(
        0.0, "a beam less probable than this is no negative, and is not counted for a pool"
    )
    pool: int = setting(20, "values in a category's pool; popular answers drawn as a question's candidates")
    pool_questions: int = setting(
        0, "questions of a category its pool is collected from, drawn by hash; 0 takes all"
    )
    agreement_questions: int = setting(
        1000, "the pool of this many questions of a category is compared with the full one; 0 does not"
    )
    popular_share: float = setting(
        0.1, "share of a category's answers, best known first, that count as popular"
    )
    drop_overlapping: bool = setting(
        True, "drop a candidate that contains a true answer, or is contained in one, on word boundaries"
    )


@dataclass(frozen=True)
class TermConfig:
    """A named part of a loss, a file of objectives/. Settings whose default is 0 are its weights, the others
    say how it is computed; with all weights 0 it is no part of the loss."""

    contrasts: ClassVar[bool] = False  # it compares answers with each other, so that negatives are needed

    @property
    def coefficients(self) -> dict[str, float]:
        """The weights that are not 0 and what goes with them, by name; empty for a term that is not there."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        weighs = any(value and not default for value, default in values.values())
        return {name: value for name, (value, default) in values.items() if weighs and (value or default)}


@dataclass(frozen=True)
class NtpConfig(TermConfig):
    """Next-token prediction (objectives/ntp.py)."""

    question: float = setting(0.0, "weight of the loss on question tokens", "NTP(question)")
    answer: float = setting(0.0, "weight of the loss on answer tokens", "NTP(answer)")
    answer_mean: float = setting(
        0.0,
        "weight of the loss on answer tokens, averaged over those of each answer (as in iterative RPO)",
        "NTP(answer) per token",
    )


@dataclass(frozen=True)
class DpoConfig(TermConfig):
    """Direct preference optimisation against the mined negatives (objectives/dpo.py)."""

    contrasts = True
    weight: float = setting(0.0, "weight of DPO against the mined negatives", "DPO")
    beta: float = setting(0.1, "beta of DPO", "β")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a system minimises, a sum of terms, and how; a field for each term."""

    label: str = setting("", "what tables and charts call it; empty: its name")
    words: str = setting("", "what sentences call it; empty: the label")
    above: tuple[str, ...] = setting(
        (), "objectives that a paper reports below this one: sentences of the report check that"
    )
    ntp: NtpConfig = NtpConfig()
    dpo: DpoConfig = DpoConfig()
    learning_rate: float = setting(1e-3, "peak learning rate")
    refresh_every: int = setting(0, "mine again from the current policy every n updates; 0 mines once")
    reference: Literal["base", "renewed"] = setting(
        "base",
        "after a refresh, reference log-probabilities are the base model's, or the current policy's (as in "
        "iterative RPO)",
    )

    @property
    def terms(self) -> dict[str, TermConfig]:
        """Every term by its name, those that are no part of the loss included."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, TermConfig)}

    @property
    def coefficients(self) -> dict[str, dict[str, float]]:
        """Of each term that is part of the loss its coefficients by name."""
        return {name: found for name, term in self.terms.items() if (found := term.coefficients)}

    @property
    def contrasts(self) -> bool:
        """A term compares answers with each other, so that negatives are needed."""
        return any(self.terms[name].contrasts for name in self.coefficients)


OBJECTIVES: dict[str, ObjectiveConfig] = {
    "dpo": ObjectiveConfig("DPO alone", dpo=DpoConfig(1.0)),
    "ntp": ObjectiveConfig("NTP", "NTP on question + answer", ntp=NtpConfig(1.0, 1.0)),
    "ntp_answer": ObjectiveConfig("NTP (answers only)", "NTP on answers only", ntp=NtpConfig(answer=1.0)),
    "ntp_weighted": ObjectiveConfig("NTP (weighted)", "answer-weighted NTP", ntp=NtpConfig(1.0, 3.0)),
    "rpo": ObjectiveConfig(
        "Iterative RPO",
        "iterative RPO",
        ntp=NtpConfig(answer_mean=1.0),
        dpo=DpoConfig(1.0),
        refresh_every=80,
        reference="renewed",
    ),
    "pretrainrl": ObjectiveConfig(
        "PretrainRL", above=("ntp", "rpo"), ntp=NtpConfig(1.0, 1.0), dpo=DpoConfig(1.0, beta=1.0)
    ),
}
"""Those of the paper and its controls, in the order in which a report tells them."""


@dataclass(frozen=True)
class TrainConfig:
    systems: tuple[str, ...] = setting(
        tuple(OBJECTIVES),
        "objectives to train, each from the base model, comma-separated",
    )
    template: Literal["bare", "few_shot"] = setting("bare", "how the question is put to the model")
    passes: int = setting(3, "times each fact is visited")
    questions: int = setting(27, "questions an update (on average: an update is whole packed rows)")
    row_length: int = setting(128, "tokens a packed row holds")
    layout: Literal["shared", "literal"] = setting(
        "shared",
        "the question once with all its answers as branches, or the paper's literal template, a sequence for "
        "each pair: the same losses and gradients, and slower",
    )
    accumulate: int = setting(1, "microsteps an update is cut into")
    ntp_scale: Literal["sequence", "token"] = setting(
        "sequence",
        "NTP of a question: summed over its tokens (the paper's eq. 5), or averaged over all tokens",
    )


@dataclass(frozen=True)
class EvaluateConfig:
    template: Literal["bare", "few_shot"] = setting("bare", "how the question is put to the model")
    beams: int = setting(10, "beam width: the k of HR@k, MRR@k and Prob@k")
    max_new_tokens: int = setting(8, "longest answer, terminator included")
    batch: int = setting(16, "questions decoded at a time: few suit a CPU's cache, an accelerator wants more")
    match: Literal["exact", "contains"] = setting(
        "exact", "an answer is right if, normalised, it equals a true answer, or if it contains one"
    )
    bins: int = setting(5, "popularity bins of equal size")
    every_updates: int = setting(0, "evaluate while training on a sample, every n updates; 0: off")
    sample: int = setting(200, "questions of that sample, and as many texts")
    choose: Literal["last", "acc", "text_nll"] = setting(
        "last", "which evaluated update a system's checkpoint is: the last, or the one best on the sample"
    )


@dataclass(frozen=True)
class HarnessConfig:
    """Standard evaluations by the lm-evaluation-harness: `evaluate --harness mmlu,gsm8k,bbh`."""

    path: str = setting("", "folder of the harness's YAML tasks, beside its own; empty for its own alone")
    limit: int = setting(0, "questions of each task, the first ones; 0 asks all")
    length: int = setting(
        0,
        "tokens a model reads at once, longer contexts lose their beginning; 0 takes what a model from "
        "Hugging Face states, else 4096",
    )
    tokens: int = setting(8192, "tokens of a batch, one context at least; an accelerator wants more")
    chat: bool = setting(False, "put questions into the tokenizer's chat template")


@dataclass(frozen=True)
class ExportConfig:
    """What `export` writes."""

    dtype: Literal["stored", "float32", "bfloat16", "float16"] = setting(
        "stored", "of the tensors; stored keeps what the checkpoint has"
    )
    shard_size: str = setting("5GB", "largest file of weights, as 5GB or 500MB")


@dataclass(frozen=True)
class CheckpointConfig:
    """What an interrupted run goes on from. It changes no result (shard_questions: none but by rounding)."""

    every_updates: int = setting(0, "updates between checkpoints; 0 goes by minutes alone")
    every_minutes: float = setting(10.0, "minutes between checkpoints; 0 goes by updates alone")
    keep: int = setting(2, "last checkpoints kept of a stage")
    keep_best: int = setting(
        1, "checkpoints kept beside them: those with the lowest mean loss since the one before"
    )
    shard_questions: int = setting(512, "questions of mining and evaluation answered between two files")
    grace_seconds: float = setting(
        25.0, "after Ctrl-C or SIGTERM a stage that has not saved by then is ended; 0 waits for it"
    )


@dataclass(frozen=True)
class SweepConfig:
    """Values to try, every combination of them (`run`); cells share base models, mined data and systems."""

    seed: tuple[int, ...] = setting((), "seeds: a base model for each; the table has means and spread")
    ntp_weight: tuple[float, ...] = setting(
        (), "lambda: factors on the NTP weights of the objectives that have a term with negatives"
    )
    beta: tuple[float, ...] = setting((), "beta of the objectives that have a DPO term")
    learning_rate: tuple[float, ...] = setting((), "peak learning rates of all objectives")
    negatives: tuple[int, ...] = setting((), "mine.negatives")
    beams: tuple[int, ...] = setting((), "mine.beams")


@dataclass(frozen=True)
class Config:
    name: str = setting("", "what the report calls the data set; empty takes the facts' own name")
    seed: int = setting(0, "every random choice derives from it")
    profile_steps: str = setting(
        "", "updates to trace in each training, as 10:13; the traces lie in WORKDIR/profile, for xprof"
    )
    facts: FactsConfig = FactsConfig()
    world: WorldConfig = WorldConfig()
    corpus: CorpusConfig = CorpusConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    platform: PlatformConfig = PlatformConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    pretrain: PretrainConfig = PretrainConfig()
    mine: MineConfig = MineConfig()
    objectives: Mapping[str, ObjectiveConfig] = field(default_factory=lambda: dict(OBJECTIVES))
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    harness: HarnessConfig = HarnessConfig()
    export: ExportConfig = ExportConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sweep: SweepConfig = SweepConfig()
