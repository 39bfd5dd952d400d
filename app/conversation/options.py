"""What the bodies of OpenAI's two routes have in common, beside their messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app import choices
from app.choices import Choice
from app.errors import RequestError
from crosslook.types import AnswerOptions, MapChoice

_TOP_K, _MOST_TOP_K = 5, 50


class StructuredOutputs(BaseModel):
    """vLLM's newer name for the same; its other fields are refused."""

    model_config = ConfigDict(extra="forbid")

    choice: list[str] = Field(min_length=1, max_length=200, fail_fast=True)


class ConversationRequest(AnswerOptions):
    """What OpenAI's two routes have in common: options of ``POST /v1/answer``, and what the model cannot do."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    maps: MapChoice = Field("none", description="Encoding of the maps in the response's `crosslook` field, or none.")
    top_k: int = Field(
        _TOP_K,
        description="How many answers the ranking in `crosslook` holds, from 1 to 50. Other values are the sampling "
        "parameter of other servers, and make no difference.",
    )
    stream: bool | None = False
    stop: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        None, max_length=8, fail_fast=True, description="The answer ends before any of these. A text alone works too."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = Field(
        None, max_length=1000, fail_fast=True, description="Refused unless `tool_choice` is none."
    )
    tool_choice: str | dict[str, Any] | None = None
    guided_choice: list[str] | None = Field(
        None, min_length=1, max_length=200, fail_fast=True, description="vLLM's name for `candidates`."
    )
    structured_outputs: StructuredOutputs | None = None

    @field_validator("top_k", mode="before")
    @classmethod
    def _ours(cls, value: object) -> object:
        """The sampling parameter of other servers (-1 and 0: off) has this name, and here it means nothing."""
        foreign = value is None or (isinstance(value, int | float) and not 1 <= value <= _MOST_TOP_K)
        return _TOP_K if foreign else value

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """OpenAI takes a text in place of a list of one."""
        return [value] if isinstance(value, str) else value

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer, by the dialect's own name for it."""
        return None

    def refuse_tools(self) -> None:
        """Raise `RequestError` for tools that the model may be meant to call."""
        if self.tools and self.tool_choice != "none":
            raise RequestError("invalid_request", "tools: this model calls none.", param="tools")

    def choice(self, wanted: Mapping[str, Any] | None, place: str) -> Choice | None:
        """What the answer shall be chosen from, in whichever field it is; ``wanted`` is the one named ``place``, which
        tells the answer's form. None where any answer will do.

        Raises: `RequestError` ``invalid_request`` for JSON that is no choice, and for two choices.
        """
        found = {place: choices.from_format(wanted, place)}
        if self.guided_choice is not None:
            found["guided_choice"] = choices.from_list(self.guided_choice, "guided_choice")
        if self.structured_outputs is not None:
            found["structured_outputs"] = choices.from_list(self.structured_outputs.choice, "structured_outputs.choice")
        if self.candidates is not None:
            found["candidates"] = Choice(tuple(self.candidates))
        given = {name: one for name, one in found.items() if one is not None}
        if len(given) > 1:
            message = f"Give one choice, not {' and '.join(given)}."
            raise RequestError("invalid_request", message, param=[*given][-1])
        return next(iter(given.values()), None)
