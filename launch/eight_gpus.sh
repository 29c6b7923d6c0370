#!/usr/bin/env bash
# All GPUs of this machine: launch/eight_gpus.sh --config imagenet --workdir runs/imagenet [--config.FIELD=VALUE ...]
set -euo pipefail

# Nothing special: one process sees every GPU and splits each batch over them. config.batch_size is the global batch and
# must be divisible by their number. No coordinator, no ranks; a checkpoint continues on any other number of GPUs.
exec python -m resnet_jax train "$@"
