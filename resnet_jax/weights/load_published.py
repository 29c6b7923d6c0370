"""Loads published weights: torchvision's by name and tag, the hub's by owner and name."""

from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import VARIANTS, create_model
from resnet_jax.weights.describe import describe_weights
from resnet_jax.weights.load import load_weights
from resnet_jax.weights.pretrained import fetch_pretrained, find_weights


def load_pretrained(
    name: str,
    tag: str | None = None,
    model: ResNet | None = None,
    head: str = "strict",
    num_channels: int | None = None,
) -> dict[str, Any]:
    """Returns the variables of published weights, downloaded once and checked each time.

    Args:
      name: torchvision's name of a network, whose weights are kept under RESNET_JAX_HOME; or the owner/name of a model
        on the hub, "timm/resnet50.a1_in1k" or "microsoft/resnet-50@main", which is kept in the hub's cache. timm's
        names with a tag, "resnet50.a1_in1k", are models of the owner timm.
      tag: of torchvision's, "IMAGENET1K_V1" (as None) or "IMAGENET1K_V2".
      model: the network to load them into; None: `create_model(name)`, or the network of the hub's config.
      head, num_channels: as in `load_weights`.

    Raises:
      UserError: if a name or tag is not published; without a network, the message says which file to put where.
    """
    hub_name = f"hf-hub:timm/{name}" if name.partition(".")[0] in VARIANTS and "." in name else name
    if "/" not in hub_name:
        path = fetch_pretrained(name, tag or "IMAGENET1K_V1")
        return load_weights(path, model or create_model(name), head, num_channels)
    if tag is not None:
        raise UserError(f"tag={tag!r} belongs to torchvision's names: leave it out with {name!r}")
    path = find_weights(hub_name, None)
    return load_weights(path, model or describe_weights(path, None, {})[1], head, num_channels)
