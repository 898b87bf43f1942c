"""Every setting of the system. A configuration file is a Python file that defines `config`, a `Config`.

Each can be overridden on the command line as `--section.key=value`. Imports nothing heavy.
"""

# ruff: noqa: F403, F405

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from pretrainrl_jax.config.declare import Section, Seed, section, setting, wrong
from pretrainrl_jax.config.facts import *
from pretrainrl_jax.config.machine import *
from pretrainrl_jax.config.objectives import *
from pretrainrl_jax.config.selfimprove import *
from pretrainrl_jax.config.stages import *

__all__ = [
    "METHODS", "NAMED", "OBJECTIVES", "AnchorConfig", "AnchorTermConfig", "AskConfig", "BenchConfig",
    "CheckpointConfig", "ColumnsConfig", "Config", "CorpusConfig", "DocumentsConfig", "DpoConfig",
    "EvaluateConfig", "ExportConfig", "FactsConfig", "GrpoConfig", "HarnessConfig", "HostsConfig",
    "JudgeConfig", "JudgeServerConfig", "JudgeTuningConfig", "LabelledConfig", "LoraConfig",
    "MakingConfig", "MeshConfig", "MethodConfig", "MineConfig", "ModelConfig", "NtpConfig",
    "ObjectiveConfig", "OptimizerConfig", "PlatformConfig", "PreferenceColumnsConfig",
    "PreferencesConfig", "PretrainConfig", "RewriterConfig", "RewriterServerConfig",
    "RewriterTuningConfig", "RolloutsConfig", "SelfimproveConfig", "ServerConfig", "SweepConfig",
    "TermConfig", "TokenizerConfig", "TrainConfig", "TuningConfig", "WorldConfig",
]  # fmt: skip

# Sections by names that a configuration chooses: those that are known, and what a new one is.
NAMED: dict[str, tuple[Mapping[str, Any], Any]] = {
    "objectives": (OBJECTIVES, ObjectiveConfig()),
    "methods": (METHODS, MethodConfig()),
}


@section
class Config(Section):
    """All of them."""

    name: str = setting("", "name of the data set in the report; empty: the facts' own", results=("report",))
    seed: Seed = setting(0, "every random choice derives from it", results=("pretrain",))
    profile_steps: str = setting("", "steps to trace in each training, as 10:13, in WORKDIR/profile (xprof)")
    facts: FactsConfig = FactsConfig()
    preferences: PreferencesConfig = PreferencesConfig()
    world: WorldConfig = WorldConfig()
    corpus: CorpusConfig = CorpusConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    platform: PlatformConfig = PlatformConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    pretrain: PretrainConfig = PretrainConfig()
    mine: MineConfig = MineConfig()
    anchor: AnchorConfig = AnchorConfig()
    objectives: Mapping[str, ObjectiveConfig] = dataclasses.field(default_factory=lambda: dict(OBJECTIVES))
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    documents: DocumentsConfig = DocumentsConfig()
    rollouts: RolloutsConfig = RolloutsConfig()
    judge: JudgeConfig = JudgeConfig()
    rewriter: RewriterConfig = RewriterConfig()
    methods: Mapping[str, MethodConfig] = dataclasses.field(default_factory=lambda: dict(METHODS))
    selfimprove: SelfimproveConfig = SelfimproveConfig()
    tuning: TuningConfig = TuningConfig()
    making: MakingConfig = MakingConfig()
    bench: BenchConfig = BenchConfig()
    ask: AskConfig = AskConfig()
    harness: HarnessConfig = HarnessConfig()
    export: ExportConfig = ExportConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sweep: SweepConfig = SweepConfig()

    @property
    def model_alone(self) -> bool:
        """A model is evaluated as it is: nothing is pretrained or trained in this workdir."""
        return bool(self.model.path) and not self.pretrain.epochs and not self.train.systems

    def _fits(self) -> None:
        for kind, asking in {"objectives": "train", "methods": "selfimprove"}.items():
            for name in (named := getattr(self, kind)):
                if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "base":
                    raise ValueError(f"{kind} names {name!r}: give letters, digits, _ and -; base is taken")
            for system in getattr(self, asking).systems:
                if system not in named:
                    known = ", ".join(named)
                    raise ValueError(f"{asking}.systems names {system!r}: the {kind} are {known}")
        for name, objective in self.objectives.items():
            if objective.reinforced and {"ntp", "dpo"} & objective.coefficients.keys():
                learns = "grpo learns from sampled answers, ntp and dpo from mined trees"
                raise ValueError(f"objectives.{name}: {learns}: give each an objective of its own")
            if objective.reinforced and (every := objective.remine_every):
                meaning = "grpo learns from no falsehoods: leave it 0"
                raise wrong(f"objectives.{name}.remine_every", every, meaning)
            for other in objective.above:
                if other not in {**OBJECTIVES, **self.objectives}:
                    raise ValueError(f"objectives.{name}.above names {other!r}: there is no such objective")
        for system in self.train.systems:
            if not self.objectives[system].coefficients:
                *some, last = [f"objectives.{system}.{name}" for name in WEIGHTS]
                raise ValueError(f"objectives.{system} has no term: give {', '.join(some)} or {last}")
        methods = {name: self.methods[name] for name in self.selfimprove.systems}
        for name, method in methods.items():
            if self.lora.rank and method.start == "scratch":
                meaning = f"methods.{name} starts from random weights, which need more than adapters"
                raise wrong("lora.rank", self.lora.rank, meaning)
        judges = self.judge.path and any(method.judged for method in methods.values())
        rewrites = self.rewriter.path and any("rewrite" in method.candidates for method in methods.values())
        if self.selfimprove.staleness and (judges or rewrites):
            who = "judge" if judges else "rewriter"
            meaning = f"{who}.path works on the run's own devices: set it to 0, or leave {who}.path out"
            raise wrong("selfimprove.staleness", self.selfimprove.staleness, meaning)
        if self.facts.path and self.preferences.path:
            raise ValueError("facts.path and preferences.path are both set: a run is about one of them")
        first, _, last = self.profile_steps.partition(":")
        is_span = first.isdecimal() and last.isdecimal() and int(first) < int(last)
        if self.profile_steps and not is_span:
            raise wrong("profile_steps", repr(self.profile_steps), "give two steps, as 10:13")
        starts = {method.start for method in methods.values()}
        if self.pretrain.epochs == 0 and not self.model.path and starts != {"scratch"}:
            raise ValueError("pretrain.epochs is 0 and model.path is empty: there would be no base model")
        endless = self.pretrain.text == "documents" and not self.documents.epochs and not self.pretrain.steps
        if endless and self.pretrain.epochs:
            raise ValueError("pretrain.text=documents has no end: give pretrain.steps, or documents.epochs")
        trains_tokenizer = not self.model.path and not self.tokenizer.path
        if trains_tokenizer and 0 < self.model.vocabulary < self.tokenizer.vocabulary:
            meaning = f"raise it to tokenizer.vocabulary ({self.tokenizer.vocabulary}), or set it to 0"
            raise wrong("model.vocabulary", self.model.vocabulary, meaning)


def __getattr__(name: str) -> Any:
    """Configuration files of older versions import `Train` for `TrainConfig`, and so on."""
    if name[0].isupper() and f"{name}Config" in globals():
        return globals()[f"{name}Config"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
