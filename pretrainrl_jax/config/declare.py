"""How settings are declared, each once: type, bounds, default, help, and what depends on it.

To add a setting, add its line here: a workdir made before it existed has its default, or what `before`
says. To rename one, give its old name as `was`: files, configurations and commands may still use it.
"""

import dataclasses
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast, dataclass_transform

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    Strict,
    model_validator,
)
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError

Kind = TypeVar("Kind")


def _distinct(names: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(names)) < len(names):
        raise PydanticCustomError("names", "name each once")
    return names


def _some(names: tuple[Any, ...]) -> tuple[Any, ...]:
    if not names:
        raise PydanticCustomError("names", "name one or more")
    return names


Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Names = Annotated[tuple[str, ...], Strict(False)]  # a list will do
Systems = Annotated[Names, AfterValidator(lambda names: tuple(dict.fromkeys(names)))]  # each is trained once
Distinct = Annotated[tuple[Kind, ...], Strict(False), AfterValidator(_distinct)]
Some = Annotated[Distinct[Kind], AfterValidator(_some)]
Counts = Annotated[tuple[NonNegativeInt, ...], Strict(False)]
Shares = Annotated[tuple[ShareBelowOne, ...], Strict(False)]
Numbers = Annotated[tuple[NonNegativeFloat, ...], Strict(False)]
GroupSize = Annotated[int, Ge(2)]
Vocabulary = Annotated[int, Ge(256 + 1)]  # every byte and the end of text
Axes = Annotated[tuple[tuple[str, tuple[Any, ...]], ...], Strict(False)]  # settings by name, with values
Policy = Literal["none", "products", "up", "attention", "full"]
SWITCHED = {"false": "none", "true": "full"}  # what `remat` was before it had policies
Remat = Annotated[Policy, BeforeValidator(lambda value: SWITCHED.get(str(value).lower(), value))]
# Whose results depend on a setting; each depends on those before it, too.
# "choice", "documents" and "adapted" are results of some runs only: see `stored.matters`; "anchored" and
# "rewards" are systems that have an anchor, or learn from rewards; "tuning" is a judge or a rewriter that
# learns, and "rewriting" the latter alone.
Results = tuple[
    Literal[
        "pretrain", "documents", "mine", "anchor", "train", "evaluate", "choice", "report", "selfimprove",
        "anchored", "rewards", "tuning", "rewriting", "adapted",
    ],
    ...,
]  # fmt: skip
NOTHING: Results = ()


def setting(
    default: Any,
    doc: str,
    shown: str = "",
    *,
    results: Results | None = None,
    before: Any = dataclasses.MISSING,
    was: str = "",
) -> Any:
    """A field of a section.

    Args:
        default: its value where nothing is said.
        doc: its help.
        shown: what formulas call it.
        results: what depends on it, where that is not what depends on the section's others.
        before: what a workdir had that is older than the setting, where that is not the default.
        was: its former name; relative to its section, as "width" or "../width".
    """
    about = {"doc": doc, "shown": shown, "results": results, "before": before, "was": was}
    return dataclasses.field(default=default, metadata=about)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def section(cls: type[Kind]) -> type[Kind]:
    """A frozen dataclass whose values are checked when it is made: no text for a number, nothing unknown."""
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return cast(type[Kind], checked_dataclass(cls, frozen=True, config=strict))


@section
class Section:
    """What all sections have."""

    results: ClassVar[Results] = NOTHING  # what depends on its settings

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, values: Any) -> Any:
        if not isinstance(values, ArgsKwargs):
            return values
        given = dict(values.kwargs or {})
        for item in fields(cls):
            if (was := item.metadata.get("was")) and was in given:  # beside it `replace` gives what was there
                given[item.name] = given.pop(was)
        return ArgsKwargs(values.args, given)

    @model_validator(mode="after")
    def _checked(self) -> "Section":
        self._fits()
        return self

    def _fits(self) -> None:
        """Raises ValueError for values that do not go together; each is within its bounds already."""


def wrong(name: str, value: Any, meaning: str) -> ValueError:
    """What is the matter with a setting's value."""
    return ValueError(f"{name} is {value}: {meaning}")
