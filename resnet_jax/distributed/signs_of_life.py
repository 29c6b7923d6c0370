"""Says which process cannot be reached, before JAX ends this one in its own words.

JAX's coordination service notices a process that is silent for the heartbeat's time, and then aborts all others from
C++, where no line of ours can follow. So each process leaves a number there every few seconds; process 0 looks whether
the others' still rise, and the others whether process 0 answers.
"""

import logging
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

KEY = "resnet_jax signs of life"
# Shares of the heartbeat's time: between two signs, and without one before it is reported.
INTERVAL, SILENCE = 0.1, 0.6
MOST_NAMED = 8


class SignsOfLife:
    """Threads that leave and look for them, until `stop`."""

    def __init__(self, client: Any, process_id: int, address: str, heartbeat_seconds: float) -> None:
        """Begins.

        Args:
          client: JAX's of the coordination service.
          address: where that is.
        """
        self._client, self._me, self._address = client, process_id, address
        self._heartbeat = heartbeat_seconds
        self._ends = threading.Event()
        self._answered = time.monotonic()
        self._seen: dict[str, tuple[str, float]] = {}
        self._said: set[str] = set()
        for target in (self._leave, self._look):
            threading.Thread(target=target, name="signs of life", daemon=True).start()

    def stop(self) -> None:
        """Says nothing more: the process is about to end."""
        self._ends.set()

    def _leave(self) -> None:
        """Leaves signs, in a separate thread: if the service cannot be reached, the call does not return."""
        number = 0
        while not self._ends.wait(INTERVAL * self._heartbeat):
            number += 1
            try:
                self._client.key_value_set(f"{KEY}/{self._me}", str(number), allow_overwrite=True)
                if self._me == 0:
                    self._take_in(self._client.key_value_dir_get(KEY))
            except Exception:  # JAX ends the process, or all are ending
                continue
            self._answered = time.monotonic()

    def _take_in(self, signs: list[tuple[str, str]]) -> None:
        now = time.monotonic()
        for key, value in signs:
            if self._seen.get(key, ("", 0.0))[0] != value:
                self._seen[key] = value, now

    def _look(self) -> None:
        while not self._ends.wait(INTERVAL * self._heartbeat / 2):
            limit = time.monotonic() - SILENCE * self._heartbeat
            if self._me:
                silent = [f"process 0, at {self._address},"] if self._answered < limit else []
            else:
                numbers = [key.rpartition("/")[2] for key, (_, when) in [*self._seen.items()] if when < limit]
                silent = [f"process {number}" for number in sorted(numbers, key=int) if number != "0"]
            if new := [name for name in silent if name not in self._said][:MOST_NAMED]:
                self._said.update(new)
                logger.warning(
                    f"process {self._me}: {', '.join(new)} has given no sign of life for "
                    f"{SILENCE * self._heartbeat:.0f} s: unless it comes back this process ends, with JAX's words and "
                    "exit code 134; the same command then continues"
                )
