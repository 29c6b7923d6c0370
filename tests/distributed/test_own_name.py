"""A host whose own name leads other hosts astray is told what to mend, before the processes meet in vain."""

import logging
import socket

import pytest

from resnet_jax.distributed.addresses import warn_of_own_name
from resnet_jax.distributed.detection import Processes, spans_hosts

NAMES = {"h1": "127.0.1.1", "h2": "10.77.0.2", "localhost": "127.0.0.1", "six": "::1"}


@pytest.fixture
def names(monkeypatch):
    """Names as /etc/hosts gives them; the function sets the host's own."""

    def resolve(host, *_, **__):
        if host not in NAMES:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES[host], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return lambda own: monkeypatch.setattr(socket, "gethostname", lambda: own)


@pytest.mark.parametrize(
    ("found", "environment", "spans"),
    [
        (Processes("h2:8476", 2, 1), {}, True),
        (Processes("localhost:8476", 2, 1), {}, False),
        (Processes("six:8476", 2, 1), {}, False),
        (Processes("nowhere:8476", 2, 1), {}, False),
        (Processes(num_processes=4, detection="slurm"), {"SLURM_STEP_NUM_NODES": "2"}, True),
        (Processes(num_processes=4, detection="slurm"), {"SLURM_STEP_NUM_NODES": "1"}, False),
        (Processes(detection="ompi"), {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, True),
        (Processes(detection="ompi"), {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
    ],
)
def test_processes_on_several_hosts_are_known(names, found, environment, spans):
    assert spans_hosts(found, environment) == spans


@pytest.mark.parametrize(("own", "is_wrong"), [("h1", True), ("six", True), ("h2", False), ("nowhere", False)])
def test_a_host_that_calls_itself_127_is_warned(names, caplog, monkeypatch, own, is_wrong):
    names(own)
    monkeypatch.setattr(logging.getLogger("resnet_jax"), "propagate", True)
    warn_of_own_name()
    assert (f"this host's own name, {own}, is {NAMES.get(own)} here" in caplog.text) == is_wrong
