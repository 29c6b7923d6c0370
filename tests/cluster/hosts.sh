#!/usr/bin/env bash
# Two hosts on this machine, network namespaces joined by a bridge: training over them, Open MPI, and links that fail.
#
#   apt-get install --no-install-recommends openmpi-bin iproute2 iptables
#   make .venv/.installed && tests/cluster/hosts.sh [FAULTS]       as root, on Linux; 20 of each by default, "slow": the
#                                                                   slow link alone
#
# CLUSTER_DIR=FOLDER keeps the runs there.
set -euo pipefail

if [ "${INSIDE:-}" != 1 ]; then
    # In namespaces of its own: whatever happens, no process, link or name outlives the script.
    exec env INSIDE=1 unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$@"
fi

faults=${1:-20}
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -n "${CLUSTER_DIR:-}" ]; then
    mkdir -p "$CLUSTER_DIR"
    dir=$(cd "$CLUSTER_DIR" && pwd)
else
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
fi
export PATH="$root/.venv/bin:$PATH" RESNET_JAX_HOME="$dir/home" RESNET_JAX_HEARTBEAT_SECONDS=10 JAX_PLATFORMS=cpu
# The two hosts of this test share one machine's cores.
export XLA_FLAGS="--xla_force_host_platform_device_count=1"

mkdir -p /run/netns "$dir/mpi" "$dir/hosts"
mount -t tmpfs none /run/netns
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
{ echo "127.0.0.1 localhost"; echo "10.77.0.1 h1"; echo "10.77.0.2 h2"; } > "$dir/hosts/names"
for n in 1 2; do
    ip netns add "h$n"
    ip link add "v$n" type veth peer name eth0 netns "h$n"
    ip link set "v$n" master bridge up
    ip -n "h$n" link set lo up
    ip -n "h$n" link set eth0 up
    ip -n "h$n" addr add "10.77.0.$n/24" dev eth0
done
# on HOST COMMAND …: runs it there, where the host has its own name, and the names of both.
cat > "$dir/hosts/on" <<END
#!/bin/sh
host=\$1
shift
exec nsenter --net=/run/netns/\$host unshare --uts --mount sh -c \
    'hostname "\$0"; mount --bind $dir/hosts/names /etc/hosts; exec "\$@"' "\$host" "\$@"
END
chmod +x "$dir/hosts/on"
"$dir/hosts/on" h1 ping -c 1 -W 2 h2 > /dev/null 2>&1 || "$dir/hosts/on" h1 python -c 'import socket; socket.gethostbyname("h2")'

if [ "$faults" != slow ]; then
echo "== four ranks of $(mpirun --version | head -1)"
python "$root/tests/cluster/campaign.py" mpi "$dir/mpi" --faults "$faults"
python "$root/tests/cluster/campaign.py" elastic "$dir/elastic"
echo "== two hosts"
python "$root/tests/cluster/campaign.py" hosts "$dir/hosts" --faults "$faults"
fi
echo "== a slow link"
python "$root/tests/cluster/campaign.py" slow "$dir/hosts"
echo "all as it should be"
