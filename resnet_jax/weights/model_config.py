"""Reads the info on weights from the config of a model folder, timm's or transformers'."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.model_folder import CONFIG, PROCESSOR, hub_name, read_json
from resnet_jax.weights.timm_config import read_timm_config
from resnet_jax.weights.transformers_config import read_transformers_config


class ModelConfigError(UserError):
    """A config beside weights that is damaged, or of a network that is none of ours."""


def read_model_config(folder: Path) -> WeightsInfo:
    """Returns the info of config.json in the folder on the weights beside it; empty if there is none of a known kind.

    Raises:
      ModelConfigError: (a UserError) for a network that is none of ours, and for a damaged file.
    """
    path = folder / CONFIG
    if not path.is_file():
        return WeightsInfo()
    processor = folder / PROCESSOR
    try:
        config, of_processor = read_json(path), read_json(processor) if processor.is_file() else None
    except UserError as error:
        raise ModelConfigError(str(error)) from error
    info = parse_model_config(str(path), config, of_processor)
    return dataclasses.replace(info, source=hub_name(folder) or folder.name) if info.model else info


def parse_model_config(where: str, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> WeightsInfo:
    """Returns the info of a config; empty if it is of no known kind. `where` it stands is for messages.

    Args:
      processor: the content of preprocessor_config.json, if there is one.

    Raises:
      ModelConfigError: as `read_model_config` does.
    """
    try:
        if "architecture" in config:
            info = read_timm_config(where, config)
        elif "model_type" in config:
            info = read_transformers_config(where, config, processor)
        else:
            return WeightsInfo()
        info.create_model()
    except UserError as error:
        raise ModelConfigError(str(error) if where in str(error) else f"{where}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__} {error}"[:200]
        raise ModelConfigError(f"{where} is damaged, or no config of a network: {reason}") from error
    return info
