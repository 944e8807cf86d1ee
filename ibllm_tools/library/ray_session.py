"""Ray for the length of one run: the one that is there, or one that is started and ended; quiet, and without telemetry.

With RAY_ADDRESS set, that cluster is joined; otherwise Ray is started on this machine. One that the program has joined
already is used, and left as it is.
"""

import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from ibllm_tools.errors import InvalidRequestError, one_line

CPUS = 4
"""Of an actor without a GPU, where a machine has as many: more share one model's memory, and use it less well."""
QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's own processes write to the terminal as well
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise it warns that it will change how it hides GPUs
}
ANNOUNCEMENT = re.compile(rb"Set ray log level from environment variable")
"""What it says, even so, when it is told to be quiet."""
LOCAL = "local"
STDERR = 2
PATIENCE = 10.0
"""Seconds in which a cluster must answer."""


@dataclass(frozen=True)
class Pool:
    """How many actors there are, and what each of them takes.

    Attributes:
        actors: how many.
        device: that each loads its encoder on; the one GPU that Ray shows it is ``"cuda"``.
        cpus: of each.
        gpus: of each.
    """

    actors: int
    device: str
    cpus: int
    gpus: int


@contextmanager
def ray_session() -> Iterator[None]:
    """Have Ray, and have it keep quiet.

    Raises:
        InvalidRequestError: there is no cluster at RAY_ADDRESS, or Ray cannot be started.
    """
    started = not ray.is_initialized()
    if started:
        _start()
    console = logging.getLogger("ray.data")
    levels = {handler: handler.level for handler in console.handlers if isinstance(handler, logging.StreamHandler)}
    try:
        for handler in levels:
            handler.setLevel(logging.CRITICAL + 1)  # what goes wrong is reported by who runs this
        yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)
        if started:
            ray.shutdown()


def _start() -> None:
    place = os.environ.get("RAY_ADDRESS") or LOCAL
    _require_answer(place)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    added = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with _stderr_without(ANNOUNCEMENT):
            # Without an address Ray would look for the last cluster on this machine, also one that has crashed since.
            ray.init(place, log_to_driver=False, logging_level=logging.CRITICAL, include_dashboard=False)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        reason = one_line(error, 300) or type(error).__name__
        raise InvalidRequestError(
            f"RAY_ADDRESS={place}: no Ray cluster that can be joined ({reason}); correct or unset it, or set "
            "RAY_AUTH_MODE=token where the cluster wants Ray's token"
            if place != LOCAL
            else f"Ray cannot be started here ({reason}); index without it, or set RAY_ADDRESS"
        ) from error
    finally:
        for name in added:
            os.environ.pop(name, None)


def _require_answer(place: str) -> None:
    """Ray itself tries for minutes, and then ends the process."""
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise InvalidRequestError(
            f"RAY_ADDRESS={place}: no Ray cluster answers there ({error.strerror or error}); correct or unset it"
        ) from error


@contextmanager
def _stderr_without(pattern: re.Pattern[bytes]) -> Iterator[None]:
    """Leave some lines out of what the process writes to stderr, in whatever language; the others come at the end."""
    sys.stderr.flush()
    terminal = os.dup(STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, STDERR)
            os.close(terminal)
            held.seek(0)
            os.write(STDERR, b"".join(line for line in held if not pattern.search(line)))


def choose_pool(device: str | None) -> Pool:
    """The actors that the cluster has room for.

    A GPU each, with its share of the CPUs; or, without GPUs, as many CPUs as help one model.

    Args:
        device: that was asked for; by default GPUs where there are any.

    Raises:
        InvalidRequestError: GPUs are asked for and there are none.
    """
    machines: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    nodes = [machine["Resources"] for machine in machines if machine["Alive"]]
    on_gpu = device.startswith("cuda") if device else any(node.get("GPU", 0) >= 1 for node in nodes)
    if on_gpu:
        shares = [(int(node.get("GPU", 0)), int(node.get("CPU", 0))) for node in nodes if node.get("GPU", 0) >= 1]
        if not shares:
            raise InvalidRequestError(f"device {device!r}: Ray has no GPU, expected one at least; take another device")
        return Pool(sum(gpus for gpus, _ in shares), "cuda", min(cpus // gpus for gpus, cpus in shares), 1)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise InvalidRequestError("Ray has no CPU for an actor; give it one (ray start --num-cpus)")
    each = min(CPUS, *cpus)
    return Pool(sum(number // each for number in cpus), device or "cpu", each, 0)
