#!/usr/bin/env bash
# One GPU: launch/one_gpu.sh --config imagenet --workdir runs/imagenet [--config.FIELD=VALUE ...]
# Where something ends it early (its exit code is then 75), again until it is done:
#   until launch/one_gpu.sh --config imagenet --workdir runs/imagenet; do [ $? -eq 75 ] || break; done
set -euo pipefail

# On a machine with several GPUs, take the one that CUDA_VISIBLE_DEVICES names; without it the first.
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"

# exec: a signal to this script reaches the run itself, which saves and exits with 75; the same command continues.
exec python -m resnet_jax train "$@"
