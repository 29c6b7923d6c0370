"""Which listed network a state_dict is probably of, for messages that advise."""

from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import abridge
from resnet_jax.models.variants import create_model, list_models
from resnet_jax.weights.infer_architecture import Shape, agrees, architecture

# A network that differs from a listed one in more arguments than this is not called like it.
MAX_DIFFERENCES = 2


def describe_network(shapes: Mapping[str, Shape]) -> str | None:
    """Returns the call that makes the network with these tensors, as in "create_model('resnet20', shortcut='B')".

    None if no listed network is near.

    Args:
      shapes: by torchvision's names, in torch's order.
    """
    found = likely_networks(shapes)
    if not found:
        return None
    (name, differing), *others = found
    arguments = (f"{field}={value!r}" for field, value in differing.items())
    return f"create_model({', '.join([repr(name), *arguments])}){_or_else(others)}"


def describe_options(shapes: Mapping[str, Shape]) -> str | None:
    """Returns the same as the commands' options, as in "--model resnet20 --model_args shortcut=B".

    Biased convolutions are left out: the commands detect them on their own.
    """
    found = likely_networks(shapes)
    if not found:
        return None
    (name, differing), *others = found
    arguments = [f"{field}={_shell_word(value)}" for field, value in differing.items() if field != "conv_bias"]
    return " ".join([f"--model {name}", *(["--model_args"] if arguments else []), *arguments]) + _or_else(others)


def _or_else(others: list[tuple[str, dict[str, Any]]]) -> str:
    names = [name for name, _ in others]
    return f" (or {abridge(names, 4)}: their tensors have the same names and shapes)" if names else ""


def likely_networks(shapes: Mapping[str, Shape]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the listed networks that have these tensors, with the arguments in which they differ; none if none is
    near.

    The first is the one of which most is known; others differ from it in what leaves no trace.
    """
    seen = architecture(shapes)
    if not seen:
        return []
    candidates: dict[str, dict[str, Any]] = {}
    for name in list_models():
        model = create_model(name)
        candidates[name] = {field: value for field, value in seen.items() if not agrees(model, field, value)}
    counts = {
        name: sum(field not in ("num_classes", "conv_bias") for field in fields) for name, fields in candidates.items()
    }
    fewest = min(counts.values())
    if fewest > MAX_DIFFERENCES:
        return []
    nearest = [name for name, count in counts.items() if count == fewest]
    exact = [name for name in nearest if fewest == 0 or name == nearest[0]]
    return [(name, candidates[name]) for name in exact]


def _shell_word(value: Any) -> str:
    text = str(value).replace(" ", "")
    return f"'{text}'" if "(" in text else text
