#!/usr/bin/env bash
# Runs launch/slurm.sbatch under a real Slurm: two nodes on this machine, started here and ended with this script.
#
#   apt-get install --no-install-recommends slurm-wlm slurm-client munge
#   make .venv/.installed && tests/cluster/slurm.sh          as root, on Linux; about six minutes
#   tests/cluster/slurm.sh 24                                instead a campaign of so many faults; about 15 minutes
#
# Shows that a run which is interrupted three times gives the parameters of the unbroken one, that Slurm's own warning
# before the time limit requeues a job, that a cancelled one stays away, and that a task which dies ends its job.
# CLUSTER_DIR=FOLDER keeps the daemons' logs and the runs there.
set -euo pipefail

if [ "${INSIDE:-}" != 1 ]; then
    # In namespaces of its own: /etc/hosts can name the nodes, and whatever happens no daemon outlives the script.
    exec env INSIDE=1 unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi

root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -n "${CLUSTER_DIR:-}" ]; then
    mkdir -p "$CLUSTER_DIR"
    dir=$(cd "$CLUSTER_DIR" && pwd)
else
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
fi
cd "$dir"
export PATH="$root/.venv/bin:$PATH" SLURM_CONF="$dir/slurm.conf"
# Programs are compiled once; the two nodes of this test share one machine's cores.
export RESNET_JAX_HOME="$dir/home" RESNET_JAX_HEARTBEAT_SECONDS=10 JAX_PLATFORMS=cpu

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
fail() { say "FAILED: $*"; exit 1; }

# Waits until the given command succeeds. until_true SECONDS COMMAND …
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "in vain waited for: $*"
        sleep 0.2
    done
}

start_cluster() {
    local user host
    user=$(id -un) host=$(hostname -s)
    { echo "127.0.0.1 n1 n2"; cat /etc/hosts; } > hosts
    mount --bind hosts /etc/hosts
    mkdir -p munge state spool/n1 spool/n2
    chmod 0755 "$dir" munge
    (umask 077 && head -c 1024 /dev/urandom > munge.key)
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge/seed"
    cat > slurm.conf <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits until the credential of its last start has expired.
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
KillWait=10
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF
PartitionName=low Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10
END
    slurmctld
    slurmd -N n1
    slurmd -N n2
    until_true 60 nodes_are_idle
    say "$(sinfo --version), nodes: $(sinfo --noheader --format '%N %t')"
}

nodes_are_idle() { [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ]; }

# submit NAME NUM_STEPS [OPTION OF SBATCH …]: prints the job's number.
submit() {
    local name=$1 num_steps=$2
    shift 2
    sbatch --parsable --job-name="$name" --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --time=30 "$@" \
        "$root/launch/slurm.sbatch" --config digits --workdir "$dir/$name" --config.num_steps="$num_steps" \
        --config.model_args.stage_sizes='(1,)' --config.model_args.num_filters=4 --config.checkpoint_every_steps=100 \
        --config.eval_every_epochs=20 --config.log_every_steps=20
}

field() { scontrol --oneliner show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"; }
step() { tail -n 1 "$dir/$1/metrics.jsonl" 2>/dev/null | sed 's/.*"step": \([0-9]*\).*/\1/'; }
has_passed() { [ "$(field "$1" JobState)" = RUNNING ] && [ "$(step "$2")" -gt "$3" ] 2>/dev/null; }
was_restarted() { [ "$(field "$1" Restarts)" = "$2" ]; }
has_state() { [ "$(field "$1" JobState)" = "$2" ]; }
digest() { sed -n 's/.*parameters, sha256 *//p' "$1"; }

requeued_three_times() {
    local job unbroken after=0 restarts
    say "== a job that is interrupted three times, and one that is not"
    unbroken=$(submit unbroken 1500)
    until_true 400 has_state "$unbroken" COMPLETED
    job=$(submit interrupted 1500)
    for restarts in 1 2 3; do
        until_true 240 has_passed "$job" interrupted "$after"
        after=$(($(step interrupted) + 100))
        say "job $job runs, step $(step interrupted): scancel --signal=TERM, as Slurm's --signal=TERM@120 does"
        scancel --signal=TERM "$job"
        until_true 120 was_restarted "$job" "$restarts"
    done
    until_true 400 has_state "$job" COMPLETED
    grep -hE 'interrupted|continuing|sha256' "interrupted-$job.log"
    [ -n "$(digest "interrupted-$job.log")" ] || fail "the log has no digest"
    [ "$(digest "interrupted-$job.log")" = "$(digest "unbroken-$unbroken.log")" ] || fail "other parameters"
    say "the parameters are the unbroken run's"
    say "job $job: $(field "$job" JobState), Restarts=$(field "$job" Restarts), ExitCode=$(field "$job" ExitCode)"
}

warned_and_cancelled() {
    local job before
    say "== a job that Slurm warns before its time limit, and that its user cancels when it is back"
    job=$(submit limited 10000000 --time=1 --signal=TERM@30)
    until_true 240 was_restarted "$job" 1
    before=$(step limited)
    until_true 120 has_passed "$job" limited "$before"
    say "job $job is back, step $(step limited): scancel"
    scancel "$job"
    until_true 60 has_state "$job" CANCELLED
    until_true 60 nodes_are_idle
    sleep 15
    grep -hE 'interrupted|continuing|CANCELLED' "limited-$job.log"
    say "15 s later job $job: $(field "$job" JobState), Restarts=$(field "$job" Restarts)"
    has_state "$job" CANCELLED || fail "the cancelled job came back"
    was_restarted "$job" 1 || fail "the cancelled job came back"
}

killed_task() {
    local job start
    say "== a job of which one task is killed"
    job=$(submit killed 10000000)
    until_true 240 has_passed "$job" killed 100
    start=$SECONDS
    # The first task on the second node; its heartbeat of 10 s was set above.
    kill -KILL "$(task_of_rank 1)"
    until_true 200 has_state "$job" FAILED
    tail -n 4 "killed-$job.log" | cut -c 1-200
    say "job $job: FAILED $((SECONDS - start)) s later, Restarts=$(field "$job" Restarts), $(field "$job" ExitCode)"
    was_restarted "$job" 0 || fail "a job of which a task died was requeued"
}

task_of_rank() {
    local environment
    for environment in /proc/[0-9]*/environ; do
        if tr '\0' '\n' < "$environment" 2>/dev/null | grep -qx "SLURM_PROCID=$1" \
            && grep -qa 'resnet_jax' "${environment%environ}cmdline" && [ "${environment//[!0-9]/}" != "$$" ]; then
            echo "${environment//[!0-9]/}"
            return
        fi
    done
}

started_by_hand() {
    say "== srun by hand, without a script"
    srun --nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --time=10 python -m resnet_jax train --config digits \
        --workdir "$dir/by-hand" --config.num_steps=100 --config.model_args.stage_sizes='(1,)' \
        --config.model_args.num_filters=4 > by-hand.log 2>&1 || fail "srun ended with $?: $(tail -n 3 by-hand.log)"
    [ -n "$(digest by-hand.log)" ] || fail "the log has no digest"
    say "four tasks trained to step $(step by-hand)"
}

start_cluster
if [ "$#" -gt 0 ]; then
    say "== a campaign of $1 faults"
    python "$root/tests/cluster/campaign.py" slurm "$dir" --faults "$1" || fail "the campaign"
else
    started_by_hand
    requeued_three_times
    warned_and_cancelled
    killed_task
fi
say "all as it should be"
