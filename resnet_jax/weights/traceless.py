"""Notices weights whose own name contradicts the network they go into, where names and shapes of tensors cannot."""

import re
from pathlib import Path

from resnet_jax.models.architectures import VARIANTS
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import create_model
from resnet_jax.weights.model_folder import hub_name

# Arguments that leave no trace in a state_dict, but follow from published names.
FIELDS = ("anti_alias", "stem_pool", "weight_standardization")


def named_network(path: Path) -> str | None:
    """Returns the listed network that a path's last part begins with, as in "resnetaa50_a1h-4cf422b3.pth"; None if
    none.
    """
    name = (hub_name(path) or path.name).rpartition("/")[2].lower()
    found = [one for one in VARIANTS if re.match(rf"{re.escape(one)}(?![a-z0-9])", name)]
    return max(found, key=len, default=None)


# Words in the names of files whose networks were trained with Caffe, or as it computes.
_CAFFE = re.compile(r"caffe|msra|vggface|resnet50_(ft|scratch)_(weight|dag)")


def untold(path: Path, layout: str, model: ResNet) -> str:
    """Returns a line on what neither the names nor the shapes of weights tell, where networks of their kind differ.

    Args:
      path: of the file, whose name may say more.
      layout: of its names.
    """
    if model.stem == "cifar" and len(model.stage_sizes) == 4 and layout == "torchvision":
        return (
            f"{path}: a max-pool behind a 3x3 stem leaves no trace in weights. stem='cifar' has none; "
            "stem='cifar_pooled' is for networks that have one, as PyTorch_CIFAR10's"
        )
    if any(model.bottlenecks) and model.stride_in == "3x3" and _CAFFE.search(path.name.lower()):
        return (
            f"{path} is called like a network of Caffe's kind: these have stride_in='1x1', and most take blue first "
            "(bgr=True, convert --bgr)"
        )
    return ""


def contradiction(path: Path, model: ResNet) -> str | None:
    """Returns a line that says in what the network that `path` names answers otherwise than `model`; None if it names
    none, or in nothing.
    """
    name = named_network(path)
    if name is None:
        return None
    named = create_model(name)
    if named.preact != model.preact:
        return None
    differing = [field for field in FIELDS if getattr(named, field) != getattr(model, field)]
    if not differing:
        return None
    values = " and ".join(f"{field}={getattr(named, field)!r}" for field in differing)
    return f"{path} is called like {name}, whose {values}: the same tensors in another network answer otherwise"
