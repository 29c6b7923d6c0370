"""The ranges of options: each stands beside its field, as in `momentum: Annotated[float, FRACTION]`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from resnet_jax.errors import UserError, check_choice


@dataclass(frozen=True)
class Range:
    """The values that an option may have, as a rule in words, after "must", and as a predicate."""

    rule: str
    holds: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """Raises UserError (a ValueError) that says the rule if `value` is outside the range."""
        if not self.holds(value):
            raise UserError(f"{name}={value!r} must {self.rule}")


@dataclass(frozen=True)
class OneOf:
    """The few values that an option may have."""

    values: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """Raises UserError (a ValueError) that names them if `value` is none of them."""
        check_choice(name, value, self.values)


POSITIVE = Range("be positive", lambda value: value > 0)
NOT_NEGATIVE = Range("be at least 0", lambda value: value >= 0)
FRACTION = Range("be in [0, 1)", lambda value: 0.0 <= value < 1.0)
PROBABILITY = Range("be in [0, 1]", lambda value: 0.0 <= value <= 1.0)
POSITIVE_FRACTION = Range("be in (0, 1]", lambda value: 0.0 < value <= 1.0)
SEED = Range("be from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63)
TWO_NUMBERS = Range("be two numbers", lambda value: len(value) == 2)
ONE_OR_MORE_NUMBERS = Range("be at least one number", lambda value: len(value) >= 1)
FOUR_NUMBERS = Range("be four numbers", lambda value: len(value) == 4)
CLASS_WEIGHTS = Range(
    "be 'none', 'balanced' or positive numbers, one a class",
    lambda value: value in ("none", "balanced") or (isinstance(value, tuple) and min(value, default=0) > 0),
)
POSITIVE_NUMBERS = Range("hold positive numbers", lambda value: min(value) > 0)

MOST_PIXELS_A_SIDE = 8192
IMAGE_SIZE = Range(
    f"be a number of pixels from 0 to {MOST_PIXELS_A_SIDE}, or (height, width) from 1 on",
    lambda value: _is_image_size(value),
)


def _is_image_size(value: Any) -> bool:
    """Returns whether the value is one side, of which 0 leaves it open, or a height and a width."""
    sides, least = (value, 1) if isinstance(value, tuple) else ((value, value), 0)
    return len(sides) == 2 and all(type(side) is int and least <= side <= MOST_PIXELS_A_SIDE for side in sides)


def at_most(limit: int) -> Range:
    """Returns the range of the numbers up to `limit`."""
    return Range(f"be at most {limit}", lambda value: value <= limit)


def ranges_of(options: type) -> dict[str, tuple[Range | OneOf, ...]]:
    """Returns the ranges of a dataclass's fields by their names, () where there is none."""
    hints = get_type_hints(options, include_extras=True)
    return {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
