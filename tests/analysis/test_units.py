"""Quantities as people read and write them."""

import math

import pytest

from analysis.units import format_flops, format_half_width, parse_quantity


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (5e12, 3, "5e12"),
        (4.208e11, 3, "4.21e11"),
        (9.999e11, 3, "1e12"),
        (9.49e11, 2, "9.5e11"),
        (123.0, 3, "1.23e2"),
        (0.0, 3, "0"),
    ],
)
def test_flops_are_shown_as_study_files_write_them(value: float, digits: int, shown: str) -> None:
    assert format_flops(value, digits) == shown
    assert parse_quantity(shown) == pytest.approx(value, rel=10.0 ** (1 - digits))


def test_half_widths_are_said_as_people_say_them() -> None:
    assert format_half_width(math.log(1.05)) == "±5 %"
    assert format_half_width(math.log(2.2)) == "a factor of 2.2"
    assert format_half_width(math.inf) == "a factor of 1e+304"
