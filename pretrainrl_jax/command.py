"""A command line that was read."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrainrl_jax.config import Config

MAKING = ("run", "pretrain", "selfimprove")  # verbs that make their workdir, or go on in one that has begun


@dataclass(frozen=True)
class Command:
    verb: str
    options: argparse.Namespace
    config: Config
    given: Mapping[str, Any]  # settings of the command line itself, by dotted name
    text: str  # what the user typed: it goes on after an interruption
    began: float = field(default_factory=time.monotonic)  # when it was read, before anything slow

    @property
    def workdir(self) -> Path:
        return self.options.workdir

    @property
    def creates(self) -> bool:
        """Whether it makes its workdir: `evaluate` does for a model that it names."""
        return self.verb in MAKING or (self.verb == "evaluate" and "model.path" in self.given)
