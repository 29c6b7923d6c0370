"""Warnings are one line of process 0."""

import jax
import pytest

from resnet_jax.distributed.processes import warn, warn_once


@pytest.mark.parametrize(("process", "line"), [(0, "warning: a\n"), (1, "")])
def test_only_process_0_warns(monkeypatch, capsys, process, line):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    warn("a")
    warn("a")
    assert capsys.readouterr() == ("", 2 * line)
    warn_once.cache_clear()
    warn_once("a")
    warn_once("a")
    assert capsys.readouterr() == ("", line)
