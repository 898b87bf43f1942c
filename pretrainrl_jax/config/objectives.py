"""Objectives: sums of terms, each with a section of settings."""

from dataclasses import fields
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pretrainrl_jax.config.declare import (
    NOTHING,
    GroupSize,
    Names,
    PositiveShare,
    Section,
    Share,
    section,
    setting,
)


@section
class TermConfig(Section):
    """A named part of a loss, a file of objectives/. Settings whose default is 0 are its weights, the others
    say how it is computed; with all weights 0 it is no part of the loss."""

    results = ("train",)
    contrasts: ClassVar[bool] = False  # it compares answers with each other, so that negatives are needed

    @property
    def coefficients(self) -> dict[str, float]:
        """The weights that are not 0 and what goes with them, by name; empty for a term that is not there."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        weighs = any(value and not default for value, default in values.values())
        return {name: value for name, (value, default) in values.items() if weighs and (value or default)}


@section
class NtpConfig(TermConfig):
    """Next-token prediction (objectives/ntp.py)."""

    question: NonNegativeFloat = setting(
        0.0, "weight of the loss on question tokens", "NTP(question)", was="../question_weight"
    )
    answer: NonNegativeFloat = setting(0.0, "weight of answer tokens", "NTP(answer)", was="../answer_weight")
    answer_mean: NonNegativeFloat = setting(
        0.0, "weight of each answer's mean token", "NTP(answer) per token", was="../answer_mean_weight"
    )


@section
class DpoConfig(TermConfig):
    """Direct preference optimisation against the mined negatives (objectives/dpo.py)."""

    contrasts = True
    weight: NonNegativeFloat = setting(0.0, "weight of DPO with mined negatives", "DPO", was="../preference")
    beta: NonNegativeFloat = setting(0.1, "beta of DPO", "β", was="../beta")


@section
class AnchorTermConfig(TermConfig):
    """Staying as the base model was on text that it wrote (objectives/anchor.py)."""

    weight: NonNegativeFloat = setting(
        0.0, "weight of KL(base || policy), summed over a step's anchor text, a question", "anchor"
    )


@section
class GrpoConfig(TermConfig):
    """Policy gradient on sampled answers whose reward the facts decide (objectives/grpo.py, RLVR)."""

    weight: NonNegativeFloat = setting(0.0, "weight of the policy gradient on sampled answers", "RLVR")
    kl: NonNegativeFloat = setting(0.0, "weight of the KL to the base model, which is kept", "KL(reference)")
    form: Literal["dapo", "grpo", "dr_grpo"] = setting("dapo", "averaged by tokens, samples, or the longest")
    clip_low: Share = setting(0.2, "the ratio of probabilities counts from 1 - this on")
    clip_high: NonNegativeFloat = setting(0.2, "and up to 1 + this")
    reward: Literal["match", "partial", "ternary"] = setting(
        "match", "right answers (evaluate.match); F1 of words; or right 1, 'I don't know' 0, wrong -1"
    )
    samples: GroupSize = setting(8, "answers sampled of each question, a group")
    temperature: PositiveFloat = setting(1.0, "at which they are sampled and learned", "T")
    top_p: PositiveShare = setting(1.0, "of sampling alone")
    max_new_tokens: PositiveInt = setting(8, "longest answer, terminator included")
    updates: PositiveInt = setting(1, "updates on the answers sampled at a time")
    teach: NonNegativeFloat = setting(0.0, "passes that teach 'I don't know' as the answer first, as 0.3")

    @property
    def coefficients(self) -> dict[str, float]:
        """As of every term; what is not traced is read where answers are sampled."""
        if not self.weight and not self.kl:
            return {}
        weights = {"weight": self.weight, "kl": self.kl}
        numbers = {name: getattr(self, name) for name in ("clip_low", "clip_high", "temperature")}
        given = {name: value for name, value in weights.items() if value}
        return given | numbers | {"max_new_tokens": float(self.max_new_tokens)}


@section
class ObjectiveConfig(Section):
    """What a system minimises, a sum of terms, and how; a field for each term."""

    results = ("train",)
    label: str = setting("", "what tables and charts call it; empty: its name", results=NOTHING)
    words: str = setting("", "what sentences call it; empty: the label", results=NOTHING)
    above: Names = setting((), "objectives that a paper reports below this one", results=NOTHING)
    recommended: bool = setting(False, "reports picture it, and sweeps compare with it", results=NOTHING)
    ntp: NtpConfig = NtpConfig()
    dpo: DpoConfig = DpoConfig()
    anchor: AnchorTermConfig = AnchorTermConfig()
    grpo: GrpoConfig = GrpoConfig()
    learning_rate: NonNegativeFloat = setting(1e-3, "peak learning rate")
    remine_every: NonNegativeInt = setting(0, "mine again every n steps; 0: once", was="refresh_every")
    reference: Literal["base", "renewed"] = setting(
        "base", "after mining again, of the base model or of the current policy (iterative RPO)"
    )

    @property
    def terms(self) -> dict[str, TermConfig]:
        """Every term by its name, those that are no part of the loss included."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, TermConfig)}

    @property
    def coefficients(self) -> dict[str, dict[str, float]]:
        """Of each term that is part of the loss its coefficients by name."""
        return {name: values for name, term in self.terms.items() if (values := term.coefficients)}

    @property
    def contrasts(self) -> bool:
        """A term compares answers with each other, so that negatives are needed."""
        return any(self.terms[name].contrasts for name in self.coefficients)

    @property
    def remines(self) -> bool:
        """Falsehoods are mined again on the way."""
        return bool(self.remine_every) and self.contrasts

    @property
    def reinforced(self) -> bool:
        """It learns from answers that it samples, not from mined trees."""
        return "grpo" in self.coefficients

    @property
    def anchored(self) -> bool:
        """Text that the base model wrote is needed."""
        return "anchor" in self.coefficients


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
        remine_every=80,
        reference="renewed",
    ),
    "pretrainrl": ObjectiveConfig(
        "PretrainRL", above=("ntp", "rpo"), ntp=NtpConfig(1.0, 1.0), dpo=DpoConfig(1.0, beta=1.0)
    ),
    "rlvr": ObjectiveConfig("RLVR", "RLVR", grpo=GrpoConfig(1.0), learning_rate=3e-4),
    "anchored": ObjectiveConfig(
        "NTP (answers, anchored)",
        "anchored NTP on answers",
        recommended=True,
        ntp=NtpConfig(answer=1.0),
        anchor=AnchorTermConfig(0.25),
        learning_rate=3e-3,
    ),
}
"""Those of the paper, its controls and our own, in the order in which a report tells them."""
WEIGHTS = [
    f"{name}.{item.name}"
    for name, term in ObjectiveConfig().terms.items()
    for item in fields(term)
    if not item.default and item.metadata["shown"]
]
"""Of every term the settings of which an objective needs one."""


@section
class AnchorConfig(Section):
    """The text that the anchor term reads: made once, before the first system that has one is trained."""

    results = ("anchor",)
    path: str = setting("", "file of texts, blank lines between them; empty: the base model writes them")
    tokens: PositiveInt = setting(16384, "tokens the base model writes, at least")
    length: PositiveInt = setting(128, "tokens of a text at most, and tokens that a row of them holds")
    temperature: PositiveFloat = setting(1.0, "of what it writes")
    top: PositiveInt = setting(32, "most probable next tokens kept of each token; all others are one bucket")
    questions: PositiveFloat = setting(10.0, "questions to a row of this text", results=("anchored",))
    batch: PositiveInt = setting(64, "texts written at a time")
