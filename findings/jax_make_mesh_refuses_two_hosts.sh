#!/usr/bin/env bash
# jax.make_mesh over the devices of two hosts: on one host two processes get a mesh of all devices, on two hosts they get a
# ValueError, "does not support multi-slice topologies". You would expect the devices of ordinary hosts, CPUs and GPUs on
# a network, to be one slice: slices are known of TPU pods. But each host is a slice to JAX, told apart by the boot
# id of its kernel, so that what was tried with several processes on one machine fails on the first two real ones.
# jax.sharding.Mesh takes the same devices. `resnet_jax` makes its meshes by that.
# Needs Linux's unshare: the two processes seem to run on two hosts, as each has a file of its own for its boot id.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2"

cat > "$folder/mesh.py" <<'END'
import sys

import jax
import numpy as np

expected, address, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(address, 2, number)
try:
    jax.make_mesh((2,), ("data",))
    seen = "a mesh"
except ValueError as error:
    seen = str(error)
slices = [device.slice_index for device in jax.devices()]
print(f"jax {jax.__version__}, process {number}, slices {slices}: jax.make_mesh: {seen}", flush=True)
assert jax.sharding.Mesh(np.array(jax.devices()), ("data",)).size == 2
assert expected in seen, "it is otherwise now"
END

# Runs "$@" with the file "$0" in the place of the kernel's boot id.
as_host='mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
both() { # EXPECTED BOOT_ID BOOT_ID: two processes
  local address number ids=("$2" "$3") jobs=()
  address=127.0.0.1:$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  for number in 0 1; do
    JAX_PLATFORMS=cpu unshare -rm sh -c "$as_host" "$folder/${ids[number]}" \
      "$folder/venv/bin/python" "$folder/mesh.py" "$1" "$address" "$number" &
    jobs+=($!)
  done
  wait "${jobs[0]}" && wait "${jobs[1]}"
}
echo 00000000-0000-4000-8000-000000000000 > "$folder/first"
echo 00000001-0000-4000-8000-000000000000 > "$folder/second"
echo "one host:"
both "a mesh" first first
echo "two hosts:"
both "does not support multi-slice topologies" first second
