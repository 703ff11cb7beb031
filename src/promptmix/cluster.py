"""A cluster of Ray, for those who ask for one: an existing one by its address, or one on this machine for as long as it is needed.

Ray is imported here alone and only then; it is an extra of the package. What runs where, and what is tried again, is Ray's to decide.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from promptmix.errors import ConfigError

__all__ = ["connected", "resources_of_a_worker"]


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Within the block, Ray is connected to a cluster; gives the module ``ray``. Who is connected already stays so.

    Args:
        address: of a cluster, such as ``10.0.0.1:6379`` or ``auto``; None: what RAY_ADDRESS says, else one is started here.

    Raises:
        ConfigError: the package is missing, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
        import ray.data
    except ImportError as problem:
        raise ConfigError("--engine ray needs a package that is missing; pip install 'promptmix[ray]'") from problem
    _quieten(ray)
    if ray.is_initialized():
        yield ray
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or None
    try:
        if wanted is None:
            # Without "local" Ray would look for a cluster that somebody else may have started here.
            ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(wanted, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as problem:
        what = "no cluster of Ray could be started here" if wanted is None else f"there is no cluster of Ray at {wanted!r}"
        reason = " ".join(str(problem).split())[:300]
        raise ConfigError(f"{what} ({reason}); check --ray-address, or RAY_ADDRESS") from problem
    try:
        yield ray
    finally:
        ray.shutdown()


def resources_of_a_worker(ray: Any, device: str, threads: int) -> dict[str, float]:
    """What a worker with a backbone on a device asks the cluster for: ``num_cpus`` and ``num_gpus``.

    Args:
        device: as people name it; ``auto``: a GPU each where the cluster has any.
        threads: processors for a worker, but never more than the largest machine has.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((machine.get("CPU", 0.0) for machine in machines), default=1.0)
    gpus = any(machine.get("GPU") for machine in machines)
    return {"num_cpus": max(1.0, min(float(threads), most)), "num_gpus": float(device == "cuda" or (device == "auto" and gpus))}


def _quieten(ray: Any) -> None:
    """What Ray Data tells on stderr about itself goes to its log file alone."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
