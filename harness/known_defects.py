"""The file of known defects of ACRN's: which of the judge's are no failure of a run, and until when."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from harness.judge.findings import ACRN_DM_DEFECTS, VRTC_DEFECTS
from harness.yamlfile import load_yaml_model


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownDefect(_Part):
    """One defect of a virtual RTC or of acrn-dm's service; `expires` is the last day on which it is no failure."""

    of: Annotated[
        Literal["vrtc", "acrn-dm"],
        Field(description="vrtc or acrn-dm: what has it, a virtual RTC or acrn-dm's event service"),
    ] = "vrtc"
    name: Annotated[str, Field(description="the name by which the judge calls it")]
    vrtc: Annotated[
        Literal["dm", "hv"] | None,
        Field(
            description="dm or hv: whose virtual RTC has it; of acrn-dm it may be left out: on either",
            validate_default=True,
        ),
    ] = None
    what: Annotated[str, Field(min_length=10, description="a sentence on what goes wrong")]
    since: Annotated[datetime.date, Field(description="a date (YYYY-MM-DD): when it was found")]
    expires: Annotated[datetime.date, Field(description="a date (YYYY-MM-DD): the last day on which it is no failure")]

    @field_validator("name")
    @classmethod
    def _the_judge_knows_it(cls, name: str, others: ValidationInfo) -> str:
        of = others.data.get("of", "vrtc")
        known = ACRN_DM_DEFECTS if of == "acrn-dm" else VRTC_DEFECTS
        if name not in known:
            whose = " of acrn-dm" if of == "acrn-dm" else ""
            raise ValueError(f"the judge knows no defect{whose} called {name!r}; it knows {', '.join(sorted(known))}")
        return name

    @field_validator("vrtc")
    @classmethod
    def _whose_it_is(cls, vrtc: str | None, others: ValidationInfo) -> str | None:
        if vrtc is None and others.data.get("of", "vrtc") == "vrtc":
            raise ValueError("is missing; should be dm or hv: whose virtual RTC has it")
        return vrtc

    @model_validator(mode="after")
    def _in_order(self) -> KnownDefect:
        if self.expires < self.since:
            raise ValueError(f"expires on {self.expires}, before it was found on {self.since}")
        return self


class KnownDefects(_Part):
    """All that are known, each once for each that has it."""

    version: Annotated[Literal[1], Field(description="the format of the file: 1")]
    defects: Annotated[tuple[KnownDefect, ...], Field(description="a list of defects; [] for none")]

    @field_validator("defects")
    @classmethod
    def _each_once(cls, defects: tuple[KnownDefect, ...]) -> tuple[KnownDefect, ...]:
        seen = [(defect.name, defect.vrtc or defect.of) for defect in defects]
        twice = sorted({f"{name} of {whose}" for name, whose in seen if seen.count((name, whose)) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is given more than once")
        return defects

    def as_json(self, today: datetime.date) -> list[dict[str, Any]]:
        """The entries as run.json keeps them, each with whether it has `expired`: what was known when the run began."""
        return [{**defect.model_dump(mode="json"), "expired": today > defect.expires} for defect in self.defects]


def load_known_defects(path: Path) -> KnownDefects:
    """What a file says. Raises FileProblems (a ConfigurationError) with all that is wrong with it, each by its line."""
    return load_yaml_model(path, KnownDefects)
