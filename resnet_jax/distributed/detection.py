"""Which of many processes this one is.

Taken from, in this order: the options --coordinator, --num_processes and --process_id; a step of several tasks that
Slurm's srun started; Open MPI's mpirun; an indexed Kubernetes Job (JOB_COMPLETION_INDEX) whose manifest sets
JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES. Otherwise, and with --num_processes 1, the process is alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from resnet_jax.distributed.addresses import find_addresses, is_loopback
from resnet_jax.errors import UserError

POD_VARIABLE = "JOB_COMPLETION_INDEX"  # of an indexed Kubernetes Job


@dataclass(frozen=True)
class Processes:
    """Arguments of `jax.distributed.initialize`; detection names the cluster that JAX asks for those that are None.

    The GPUs of a host are divided among its processes, see `gpus_of`.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    detection: str = "deactivate"
    local_rank: int = 0  # among the processes of this host
    local_size: int = 0  # of those how many there are; 0: nothing tells it


def find_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None, environment: Mapping[str, str]
) -> Processes | None:
    """Returns how this process knows that it is one of many; None if it is alone.

    Raises:
      UserError: if the options make no sense.
    """
    if num_processes == 1 and process_id in (None, 0):  # also one of several tasks that are separate runs
        return None
    options = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in options.items() if value is None]
    if coordinator is not None and num_processes is not None and process_id is not None:
        return _checked("--coordinator", coordinator, "--num_processes", num_processes, "--process_id", process_id)
    if len(missing) < len(options):
        raise UserError(f"{' and '.join(missing)} missing: --coordinator, --num_processes and --process_id go together")
    if read_number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        # Before Slurm: mpirun may start its daemons, one a node, by srun, whose variables the processes inherit.
        if "OMPI_MCA_orte_hnp_uri" in environment:
            processes = Processes(detection="ompi")
        else:  # from 5.0 on
            processes = _from_environment(environment, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
        rank = read_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0)
        return replace(processes, local_rank=rank, local_size=read_number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 0))
    # SLURM_NTASKS is also set in the shell of an allocation, where nobody else would come. Tasks of a step, and only
    # they, have these two; the shell that some sites start as a separate step has one task.
    if "SLURM_PROCID" in environment and read_number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return Processes(
            num_processes=read_number(environment, "SLURM_STEP_NUM_TASKS"),
            detection="slurm",
            local_rank=read_number(environment, "SLURM_LOCALID", 0),
            local_size=_tasks_here(environment),
        )
    if POD_VARIABLE in environment and read_number(environment, "JAX_NUM_PROCESSES", 1) > 1:
        return _from_environment(environment, "JAX_NUM_PROCESSES", POD_VARIABLE)
    return None


def gpus_of(processes: Processes, num_gpus: int) -> int | list[int] | None:
    """Returns the numbers of the GPUs that are this process's, of as many as it sees on its host; None: all of them,
    or those that the cluster's detection by JAX says.

    JAX gives each task of Slurm and of Open MPI 4 one GPU, though it be alone on a host of eight.

    Raises:
      UserError: if it sees several and they are fewer than the host's processes.
    """
    rank, size = processes.local_rank, processes.local_size
    if not num_gpus or not size:
        return rank if size > 1 and processes.detection == "deactivate" else None
    if num_gpus == 1:  # a task that sees its own alone, whatever number it has outside
        return [0]
    if num_gpus < size:
        raise UserError(f"{size} processes on this host see {num_gpus} GPUs: start at most one for each GPU")
    return [*range(rank * num_gpus // size, (rank + 1) * num_gpus // size)]


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Returns how many tasks of Slurm's step are on this host, by "8(x2),4" and the host's number; 0 if it is not
    told.
    """
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip()):
            counts += [int(match[1])] * int(match[2] or 1)
    host = read_number(environment, "SLURM_NODEID", -1)
    return counts[host] if 0 <= host < len(counts) else 0


def spans_hosts(processes: Processes, environment: Mapping[str, str]) -> bool:
    """Returns whether the processes are known to be on several hosts."""
    if processes.coordinator is not None:
        found = find_addresses(processes.coordinator.rpartition(":")[0].strip("[]"))
        return bool(found) and not any(map(is_loopback, found))
    if processes.detection == "slurm":
        return read_number(environment, "SLURM_STEP_NUM_NODES", 1) > 1
    size = read_number(environment, "OMPI_COMM_WORLD_SIZE", 1)
    return read_number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", size) < size


def _from_environment(environment: Mapping[str, str], size: str, rank: str) -> Processes:
    name = "JAX_COORDINATOR_ADDRESS"
    if name not in environment:
        raise UserError(f"{size} tells of several processes and {name} is not set: set it to HOST:PORT of process 0")
    return _checked(name, environment[name], size, read_number(environment, size), rank, read_number(environment, rank))


def _checked(address_name: str, address: str, size_name: str, size: int, rank_name: str, rank: int) -> Processes:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{address_name} {address!r} must be HOST:PORT of process 0, for example node1:8476")
    if size < 1:
        raise UserError(f"{size_name} {size} must be at least 1")
    if not 0 <= rank < size:
        raise UserError(f"{rank_name} {rank} must be from 0 to {size - 1}, for {size_name} {size}")
    return Processes(address, size, rank)


def read_number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Returns the whole number in a variable of the environment.

    Raises:
      UserError: if it is none, or is missing without a default.
    """
    text = environment.get(name, default)
    try:
        return int(str(text))
    except ValueError:
        raise UserError(f"the environment has {name}={text!r}, which must be a whole number") from None
