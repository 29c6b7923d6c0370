"""Which of many processes this one is, and their meeting before the start and at the end.

Taken from, in this order: the options --coordinator, --num_processes and --process_id; a step of several tasks that
Slurm's srun started; Open MPI's mpirun; an indexed Kubernetes Job (JOB_COMPLETION_INDEX) whose manifest sets
JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES. Otherwise, and with --num_processes 1, the process is alone.
"""

import errno
import functools
import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
from jax._src import distributed  # its client's barrier can time out; the public ones wait for ever

from resnet_jax.distributed.signs_of_life import SignsOfLife
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

# How long a process waits for all others to have started: pods and nodes do not come at once.
START_SECONDS = 300
# After so long without a sign of life a process is dead; JAX then ends all others, which would wait for it for ever.
HEARTBEAT_SECONDS = 100
# What sets the two otherwise.
START_VARIABLE, HEARTBEAT_VARIABLE = "RESNET_JAX_START_SECONDS", "RESNET_JAX_HEARTBEAT_SECONDS"
# How long a process that is done (the last curves are drawn by one alone), or failed, waits for the others to be too.
LEAVE_SECONDS = 60
FAILED_LEAVE_SECONDS = 5
LOST = "another process has gone, or cannot be reached"
# JAX's own, where process 0 listens if not at the coordinator's address.
BIND_VARIABLE = "JAX_COORDINATOR_BIND_ADDRESS"


_signs: SignsOfLife | None = None  # of this process, if it is one of many


@dataclass(frozen=True)
class Processes:
    """Arguments of `jax.distributed.initialize`; detection names the cluster that JAX asks for those that are None."""

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    detection: str = "deactivate"
    local_device_ids: int | None = None  # of this machine's GPUs, if others belong to other processes


def start_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Returns whether this process is one of many; if so it has met the others, and knows their devices.

    The arguments are the options, None where not given. To be called before JAX touches its devices. Results go to
    standard output of process 0 alone.

    Raises:
      UserError: for options or an environment that make no sense. If the others do not come, the process ends with a
        line and code 2.
    """
    processes = find_processes(coordinator, num_processes, process_id, os.environ)
    if processes is not None:
        _meet(processes)
        _results_by_first_process()
    return processes is not None


def log(text: str) -> None:
    """Logs a message that is no warning, in process 0 alone."""
    if jax.process_index() == 0:
        logger.info(text)


def warn(text: str) -> None:
    """Logs a warning, in process 0 alone."""
    if jax.process_index() == 0:
        logger.warning(text)


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning that this process has not logged yet, in process 0 alone."""
    warn(text)


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
    if _number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        # Before Slurm: mpirun may start its daemons, one a node, by srun, whose variables the processes inherit.
        if "OMPI_MCA_orte_hnp_uri" in environment:
            return Processes(detection="ompi")
        processes = _from_environment(environment, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")  # from 5.0 on
        shared = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 1) > 1
        gpu = _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK") if shared else None
        return replace(processes, local_device_ids=gpu)
    # SLURM_NTASKS is also set in the shell of an allocation, where nobody else would come. Tasks of a step, and only
    # they, have these two; the shell that some sites start as a separate step has one task.
    if "SLURM_PROCID" in environment and _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return Processes(num_processes=_number(environment, "SLURM_STEP_NUM_TASKS"), detection="slurm")
    if "JOB_COMPLETION_INDEX" in environment and _number(environment, "JAX_NUM_PROCESSES", 1) > 1:
        return _from_environment(environment, "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX")
    return None


def leave(code: int) -> int:
    """Returns `code`, with which the process may now exit: after the others if there are any.

    One that failed ends here, soon if the others work on: JAX's own farewell, when Python ends, would wait for them.
    """
    client, failed = distributed.global_state.client, code not in (0, 75)
    if client is None:
        return code
    if _signs is not None:
        _signs.stop()
    try:  # process 0 that leaves early has JAX abort the others before they have said what went wrong
        client.wait_at_barrier("resnet_jax is done", 1000 * (FAILED_LEAVE_SECONDS if failed else LEAVE_SECONDS))
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
        failed = True
    return _end(code or 1) if failed else code


def prefix() -> str:
    """Returns what an error's line begins with, so that one knows whose it is: empty if the process is alone."""
    return "" if distributed.global_state.client is None else f"process {distributed.global_state.process_id}: "


def _from_environment(environment: Mapping[str, str], size: str, rank: str) -> Processes:
    name = "JAX_COORDINATOR_ADDRESS"
    if name not in environment:
        raise UserError(f"{size} tells of several processes and {name} is not set: set it to HOST:PORT of process 0")
    return _checked(name, environment[name], size, _number(environment, size), rank, _number(environment, rank))


def _checked(address_name: str, address: str, size_name: str, size: int, rank_name: str, rank: int) -> Processes:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{address_name} {address!r} must be HOST:PORT of process 0, for example node1:8476")
    if size < 1:
        raise UserError(f"{size_name} {size} must be at least 1")
    if not 0 <= rank < size:
        raise UserError(f"{rank_name} {rank} must be from 0 to {size - 1}, for {size_name} {size}")
    return Processes(address, size, rank)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, default)
    try:
        return int(str(text))
    except ValueError:
        raise UserError(f"the environment has {name}={text!r}, which must be a whole number") from None


def _seconds(name: str, default: int) -> int:
    seconds = _number(os.environ, name, default)
    if seconds < 1:
        raise UserError(f"the environment has {name}={seconds}, which must be at least 1")
    return seconds


def _meet(processes: Processes) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours: see preemption.py
    failure: list[Exception] = []
    start_seconds = _seconds(START_VARIABLE, START_SECONDS)
    heartbeat_seconds = _seconds(HEARTBEAT_VARIABLE, HEARTBEAT_SECONDS)

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                processes.coordinator,
                processes.num_processes,
                processes.process_id,
                processes.local_device_ids,
                cluster_detection_method=processes.detection,
                initialization_timeout=start_seconds + 60,
                coordinator_bind_address=bind_address,
                heartbeat_timeout_seconds=heartbeat_seconds,
                shutdown_timeout_seconds=LEAVE_SECONDS,
            )
        except Exception as error:
            failure.append(error)

    # Where the user said, not at every address of the machine: whoever reaches the coordinator is believed. JAX itself
    # reads the variable, for a name that only others resolve.
    bind_address = None if BIND_VARIABLE in os.environ else processes.coordinator
    if processes.process_id == 0 and processes.coordinator is not None:
        _check_address(os.environ.get(BIND_VARIABLE, processes.coordinator))
    if _spans_hosts(processes, os.environ):
        _warn_of_own_name()
    thread = threading.Thread(
        target=initialize, daemon=True
    )  # when its own time is up JAX aborts: we are there earlier
    thread.start()
    thread.join(start_seconds)
    state = distributed.global_state
    if not thread.is_alive() and not failure:
        global _signs
        _signs = SignsOfLife(state.client, state.process_id, state.coordinator_address or "", heartbeat_seconds)
        return
    address = state.coordinator_address or processes.coordinator or f"the coordinator that {processes.detection} tells"
    if failure:
        reason = (str(failure[0]).splitlines() or [type(failure[0]).__name__])[0]
        _refuse(f"process {state.process_id} cannot start at {address}: {reason}")
    if state.process_id == 0:
        _refuse(f"process 0 waited {start_seconds} s at {address} and not all others came: were they started?")
    _refuse(f"process {state.process_id} did not reach {address} within {start_seconds} s: is process 0 running there?")


def _spans_hosts(processes: Processes, environment: Mapping[str, str]) -> bool:
    """Returns whether the processes are known to be on several hosts."""
    if processes.coordinator is not None:
        found = _addresses(processes.coordinator.rpartition(":")[0].strip("[]"))
        return bool(found) and not any(map(_is_loopback, found))
    if processes.detection == "slurm":
        return _number(environment, "SLURM_STEP_NUM_NODES", 1) > 1
    size = _number(environment, "OMPI_COMM_WORLD_SIZE", 1)
    return _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", size) < size


def _warn_of_own_name() -> None:
    """Warns if other hosts could not reach what this process opens under its host's own name.

    On CPUs it is there that gloo listens, and many systems name themselves 127.0.1.1 in /etc/hosts.
    """
    name = socket.gethostname()
    own = _addresses(name)
    if own and all(map(_is_loopback, own)):
        logger.warning(
            f"this host's own name, {name}, is {own[0]} here, where others cannot reach it: on CPUs processes meet "
            f"there. Give {name} the host's address in /etc/hosts"
        )


def _addresses(host: str) -> list[str]:
    try:
        return [str(place[0]) for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _check_address(address: str) -> None:
    """Raises UserError unless this machine can listen at HOST:PORT: JAX would crash, or share the port with another
    run.

    Warns of a name that leads others to themselves, as the machine's own does in many /etc/hosts.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    elsewhere = f"{BIND_VARIABLE}=HOST:PORT where others know it by another"
    advice = f"choose another port, or an address of this machine ({elsewhere})"
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise UserError(f"process 0 cannot listen at {address}: {error}; {advice}") from None
    errors = [refusal for entry in found if (refusal := _listen(*entry)) is not None]
    taken = [refusal for refusal in errors if refusal.errno == errno.EADDRINUSE]
    if taken or len(errors) == len(found):  # of the two kinds of addresses one may be missing here
        raise UserError(f"process 0 cannot listen at {address}: {(taken or errors)[0].strerror}; {advice}")
    local = [_is_loopback(str(place[0])) for *_, place in found]
    if all(local) and host != "localhost" and not _is_loopback(host):
        logger.warning(
            f"{host} is {found[0][4][0]} here, which other machines cannot reach: name this one by an address that "
            f"they can, or set {BIND_VARIABLE}=0.0.0.0:{port}"
        )


def _listen(family: int, kind: int, protocol: int, name: str, place: Any) -> OSError | None:
    """Returns what keeps this process from listening at one of getaddrinfo's addresses; None if nothing does."""
    del name
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as gRPC: a run that has just ended is no matter
            probe.bind(place)
    except OSError as error:
        return error
    return None


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    _end(2)  # an exception would have JAX wait for the others when Python ends


def _results_by_first_process() -> None:
    """Parts results from what C++ (gloo) writes to standard output too: from here on that is standard error, and only
    Python has the old.
    """
    sys.stdout.flush()
    results = os.dup(1) if distributed.global_state.process_id == 0 else os.open(os.devnull, os.O_WRONLY)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(results, "w", errors="backslashreplace")


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
