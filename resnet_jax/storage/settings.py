"""Numbers that a user sets by the environment."""

import os
from collections.abc import Callable

from resnet_jax.errors import UserError


def environment_number(name: str, default: float, rule: str, holds: Callable[[float], bool]) -> float:
    """Returns the number in an environment variable, or the default where it is not set or empty.

    Raises:
      UserError: with the rule, after "must be", unless it is a number for which it holds.
    """
    text = os.environ.get(name, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = float("nan")
    if not holds(number):
        raise UserError(f"{name}={text!r} must be {rule}")
    return number
