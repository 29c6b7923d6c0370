"""Addresses of this machine and of others, as far as processes that are to meet need them."""

import errno
import logging
import socket
import time
from typing import Any

from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

# JAX's own, where process 0 listens if not at the coordinator's address.
BIND_VARIABLE = "JAX_COORDINATOR_BIND_ADDRESS"


def warn_of_own_name() -> None:
    """Warns if other hosts could not reach what this process opens under its host's own name.

    On CPUs it is there that gloo listens, and many systems name themselves 127.0.1.1 in /etc/hosts.
    """
    name = socket.gethostname()
    own = find_addresses(name)
    if own and all(map(is_loopback, own)):
        logger.warning(
            f"this host's own name, {name}, is {own[0]} here, where others cannot reach it: on CPUs processes meet "
            f"there. Give {name} the host's address in /etc/hosts"
        )


def find_addresses(host: str) -> list[str]:
    """Returns the addresses that a host's name has here; none if it has none."""
    try:
        return [str(place[0]) for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def is_loopback(address: str) -> bool:
    """Returns whether an address leads every machine to itself."""
    return address.startswith("127.") or address == "::1"


def check_listening(address: str, patience: float = 0.0) -> None:
    """Raises UserError unless this machine can listen at HOST:PORT: JAX would crash, or share the port with another
    run.

    Warns of a name that leads others to themselves, as the machine's own does in many /etc/hosts.

    Args:
      patience: seconds to wait for the name to become known, as a pod's does some time after it has started.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    elsewhere = f"{BIND_VARIABLE}=HOST:PORT where others know it by another"
    advice = f"choose another port, or an address of this machine ({elsewhere})"
    try:
        found = _find_patiently(host, int(port), patience)
    except (OSError, ValueError) as error:
        raise UserError(f"process 0 cannot listen at {address}: {error}; {advice}") from None
    errors = [refusal for entry in found if (refusal := _listen(*entry)) is not None]
    taken = [refusal for refusal in errors if refusal.errno == errno.EADDRINUSE]
    if taken or len(errors) == len(found):  # of the two kinds of addresses one may be missing here
        raise UserError(f"process 0 cannot listen at {address}: {(taken or errors)[0].strerror}; {advice}")
    local = [is_loopback(str(place[0])) for *_, place in found]
    if all(local) and host != "localhost" and not is_loopback(host):
        logger.warning(
            f"{host} is {found[0][4][0]} here, which other machines cannot reach: name this one by an address that "
            f"they can, or set {BIND_VARIABLE}=0.0.0.0:{port}"
        )


def _find_patiently(host: str, port: int, patience: float) -> list[Any]:
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            if time.monotonic() >= deadline:
                raise
        time.sleep(1.0)


def _listen(family: int, kind: int, protocol: int, name: str, place: Any) -> OSError | None:
    """Returns what keeps this process from listening at one of getaddrinfo's addresses; None if nothing does."""
    del name
    try:
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC: a run that has just ended is no matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        return error
    return None
