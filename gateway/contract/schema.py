"""Feature views: one definition that serves training and serving, known by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import math
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Scalar = bool | int | float | str


class Document(BaseModel):
    """A definition that people write in YAML: immutable, and strict about keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical(self) -> str:
        """The one JSON text of this content: keys sorted, no blanks. Its SHA-256 is the content's identity."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def digest(self) -> str:
        """SHA-256 of the canonical text, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


class Dtype(StrEnum):
    """The types of features and request-time inputs."""

    FLOAT32 = "float32"
    INT64 = "int64"
    STRING = "string"
    BOOL = "bool"


class Missing(StrEnum):
    """What to do when a value is missing or stale."""

    DEFAULT = "default"
    REJECT = "reject"


def check_scalar(dtype: Dtype, value: Scalar | None) -> Scalar | None:
    """Returns the value in the type that `dtype` calls for, or raises ValueError. None stays None."""
    is_bool = isinstance(value, bool)
    match dtype:
        case _ if value is None:
            return None
        case Dtype.FLOAT32 if isinstance(value, int | float) and not is_bool and math.isfinite(value):
            return float(value)
        case Dtype.INT64 if isinstance(value, int) and not is_bool and -(2**63) <= value < 2**63:
            return value
        case Dtype.STRING if isinstance(value, str):
            return value
        case Dtype.BOOL if is_bool:
            return value
    raise ValueError(f"{value!r} is not a {dtype} value")


class Feature(Document):
    """One column of a view."""

    name: Name
    """Its name within the view."""
    type: Dtype
    """Its type."""
    missing: Missing = Missing.DEFAULT
    """Whether a missing or stale value takes the default or makes the row fail."""
    default: Scalar | None = None
    """Used when the value is missing or stale. A float32 without a default becomes NaN; others must declare it."""
    ttl_s: Annotated[int, Field(gt=0)] | None = None
    """Seconds after its event time at which a value is stale; the view's when absent."""
    description: str = ""
    """For people."""

    @field_validator("default")
    @classmethod
    def _default_has_the_type(cls, value: Scalar | None, info: ValidationInfo) -> Scalar | None:
        return check_scalar(info.data["type"], value) if "type" in info.data else value

    @model_validator(mode="after")
    def _default_is_declared(self) -> Self:
        if self.missing is Missing.DEFAULT and self.default is None and self.type is not Dtype.FLOAT32:
            raise ValueError(f"feature {self.name!r}: a {self.type} feature needs `default`, or `missing: reject`")
        return self


class FeatureView(Document):
    """Features of one entity that are computed and materialized together."""

    name: Name
    """Its name; several definitions may bear it over time, each with its own hash."""
    entity: Name
    """The entity whose key finds a row."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1, max_length=512)]
    """The columns, in order."""
    ttl_s: Annotated[int, Field(gt=0)] | None = None
    """Seconds after its event time at which a row is stale; never when absent."""
    timezone: str = "UTC"
    """The time zone that a day means in this definition."""
    description: str = ""
    """For people."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [feature.name for feature in self.features]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"features named twice: {', '.join(twice)}")
        return self

    def feature(self, name: str) -> Feature:
        """The feature of that name; raises KeyError."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)


def view_from_json(text: str) -> FeatureView:
    """Reads a canonical definition."""
    return FeatureView.model_validate_json(text)


def explain(error: Any) -> str:
    """Says in one line what a pydantic ValidationError found, naming each key by its path: `features.2.type: …`."""
    found = ((".".join(str(part) for part in item["loc"]) or "document", item["msg"]) for item in error.errors())
    return "; ".join(f"{key}: {message.removeprefix('Value error, ')}" for key, message in found)
