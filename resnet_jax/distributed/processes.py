"""The meeting of many processes before a run, and their leaving at its end."""

import functools
import logging
import os
import sys
import threading
from typing import NoReturn

import jax
from jax._src import distributed  # its client's barrier can time out; the public ones wait for ever

from resnet_jax.distributed.addresses import BIND_VARIABLE, check_listening, warn_of_own_name
from resnet_jax.distributed.agreement import agree
from resnet_jax.distributed.detection import POD_VARIABLE, Processes, find_processes, gpus_of, read_number, spans_hosts
from resnet_jax.distributed.signs_of_life import SignsOfLife
from resnet_jax.errors import UserError
from resnet_jax.runtime import cuda_devices

logger = logging.getLogger(__name__)

# How long a process waits for all others to have started: pods and nodes do not come at once.
START_SECONDS = 300
# After so long without a sign of life a process is dead; JAX then ends all others, which would wait for it for ever.
HEARTBEAT_SECONDS = 100
# What sets the two otherwise.
START_VARIABLE, HEARTBEAT_VARIABLE = "RESNET_JAX_START_SECONDS", "RESNET_JAX_HEARTBEAT_SECONDS"
# How long the first pod of a job waits until its own name is known.
NAME_SECONDS = 60.0
# How long a process that is done (the last curves are drawn by one alone), or failed, waits for the others to be too.
LEAVE_SECONDS = 60
FAILED_LEAVE_SECONDS = 5
LOST = "another process has gone, or cannot be reached"


_signs: SignsOfLife | None = None  # of this process, if it is one of many


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


def _seconds(name: str, default: int) -> int:
    seconds = read_number(os.environ, name, default)
    if seconds < 1:
        raise UserError(f"the environment has {name}={seconds}, which must be at least 1")
    return seconds


def _meet(processes: Processes) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours: see preemption.py
    failure: list[Exception] = []
    start_seconds = _seconds(START_VARIABLE, START_SECONDS)
    heartbeat_seconds = _seconds(HEARTBEAT_VARIABLE, HEARTBEAT_SECONDS)

    gpus = gpus_of(processes, len(cuda_devices()))

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                processes.coordinator,
                processes.num_processes,
                processes.process_id,
                gpus,
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
        patience = NAME_SECONDS if POD_VARIABLE in os.environ else 0.0
        check_listening(os.environ.get(BIND_VARIABLE, processes.coordinator), patience)
    if spans_hosts(processes, os.environ):
        warn_of_own_name()
    # When its own time is up JAX aborts: we are there earlier.
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(start_seconds)
    state = distributed.global_state
    if not thread.is_alive() and not failure:
        global _signs
        if state.client is not None:
            _signs = SignsOfLife(state.client, state.process_id, state.coordinator_address or "", heartbeat_seconds)
            warning = agree(state.client, state.process_id, state.num_processes, start_seconds)
            if warning:
                warn(warning)
        return
    address = state.coordinator_address or processes.coordinator or f"the coordinator that {processes.detection} tells"
    if failure:
        reason = (str(failure[0]).splitlines() or [type(failure[0]).__name__])[0]
        _refuse(f"process {state.process_id} cannot start at {address}: {reason}")
    if state.process_id == 0:
        _refuse(f"process 0 waited {start_seconds} s at {address} and not all others came: were they started?")
    _refuse(f"process {state.process_id} did not reach {address} within {start_seconds} s: is process 0 running there?")


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
