"""Which listed network a state_dict is probably of, for messages that advise."""

from collections.abc import Mapping
from typing import Any

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
    found = likely_network(shapes)
    if found is None:
        return None
    name, differing = found
    return f"create_model({', '.join([repr(name), *(f'{field}={value!r}' for field, value in differing.items())])})"


def describe_options(shapes: Mapping[str, Shape]) -> str | None:
    """Returns the same as the commands' options, as in "--model resnet20 --model_args shortcut=B".

    Biased convolutions are left out: the commands see them by themselves.
    """
    found = likely_network(shapes)
    if found is None:
        return None
    name, differing = found
    arguments = [f"{field}={_shell_word(value)}" for field, value in differing.items() if field != "conv_bias"]
    return " ".join([f"--model {name}", *(["--model_args"] if arguments else []), *arguments])


def likely_network(shapes: Mapping[str, Shape]) -> tuple[str, dict[str, Any]] | None:
    """Returns the listed network that has these tensors, with the arguments in which it differs; None if none is
    near.
    """
    seen = architecture(shapes)
    if not seen:
        return None
    candidates = []
    for name in list_models():
        model = create_model(name)
        differing = {field: value for field, value in seen.items() if not agrees(model, field, value)}
        candidates.append((sum(field not in ("num_classes", "conv_bias") for field in differing), name, differing))
    num_differences, name, differing = min(candidates, key=lambda candidate: candidate[0])
    if num_differences > MAX_DIFFERENCES:
        return None
    return name, differing


def _shell_word(value: Any) -> str:
    text = str(value).replace(" ", "")
    return f"'{text}'" if "(" in text else text
