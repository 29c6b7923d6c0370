#!/usr/bin/env bash
# All GPUs of this machine: launch/eight_gpus.sh --config imagenet --workdir runs/imagenet [--config.FIELD=VALUE ...]
# Where something ends it early (its exit code is then 75), again until it is done:
#   until launch/eight_gpus.sh --config imagenet --workdir runs/imagenet; do [ $? -eq 75 ] || break; done
set -euo pipefail

# Nothing special: one process sees every GPU and splits each batch over them. config.batch_size is the global batch and
# must be divisible by their number. No coordinator, no ranks; a checkpoint continues on any other number of GPUs.
exec python -m resnet_jax train "$@"
