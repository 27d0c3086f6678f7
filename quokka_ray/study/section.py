"""The base of all sections of a study file, numbers with units, and ranges of them."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from analysis.units import parse_quantity


def _quantity(value: Any) -> float:
    # A TypeError would leave pydantic as it is, without the key that it belongs to.
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not a quantity; write a number such as 300M or 1e18")
    return parse_quantity(value)


def _count(value: Any) -> int:
    number = _quantity(value)
    if number != round(number):
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


Quantity = Annotated[float, BeforeValidator(_quantity)]
"""A number that may carry a unit in the file: `1e18`, `300M`."""

Count = Annotated[int, BeforeValidator(_count)]
"""A whole number that may carry a unit in the file: `20B`, `8k`."""


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class Range(Section):
    """A closed interval of positive numbers, searched on a logarithmic scale."""

    low: Annotated[Quantity, Field(gt=0)]
    high: Annotated[Quantity, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g})")
        return self
