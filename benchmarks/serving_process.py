"""Servers in processes of their own: the one a person would start, and one whose image tower has random weights."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.extraction import vit_b32
from benchmarks.measure import ROOT
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import SavedModel
from promptmix.serving.engine import Engine
from promptmix.serving.server import run_server
from promptmix.serving.service import Service
from promptmix.serving.settings import Settings
from promptmix.serving.torch_engine import TorchEngine, TorchLoader

__all__ = ["TOKEN", "RunningServer", "engine_of", "serve_bundled", "serve_vit_b32", "serving"]

TOKEN = "benchmarks of serving"


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server that answers on a port of this machine, and its process."""

    port: int
    process: int

    def processor_seconds(self) -> float:
        """What it has taken so far, user and system; 0 where the system does not tell."""
        status = Path(f"/proc/{self.process}/stat")
        if not status.is_file():
            return 0.0
        user, system = status.read_text(encoding="utf-8").rpartition(") ")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int | None:
        """What it holds in memory now; None where the system does not tell."""
        status = Path(f"/proc/{self.process}/statm")
        if not status.is_file():
            return None
        return int(status.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def engine_of(predictor: Predictor) -> Engine:
    """What a server runs a model with."""
    return TorchEngine(predictor)


def serve_bundled(folder: Path) -> list[str]:
    """The command that serves a model over the bundled backbone, and lets its classes be changed."""
    options = ["--port", "0", "--device", "cpu", "--allow-class-changes"]
    return [sys.executable, "-m", "promptmix", "serve", str(folder), *options]


def serve_vit_b32(folder: Path) -> list[str]:
    """The command that serves a model over an image tower of ViT-B/32's size with random weights."""
    return [sys.executable, "-m", "benchmarks.serving_process", str(folder)]


@contextlib.contextmanager
def serving(command: Sequence[str]) -> Iterator[RunningServer]:
    """A server that ``command`` starts; it is told to stop at the end.

    Raises:
        RuntimeError: it said no address.
    """
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)
    environment = {**os.environ, "PROMPTMIX_SERVE_TOKEN": TOKEN, "PYTHONPATH": paths}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        yield RunningServer(port=int(address.rstrip("/").rpartition(":")[2]), process=process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


class _RandomTower(TorchLoader):
    """Makes engines of models over the tower with random weights."""

    def __init__(self) -> None:
        super().__init__(backbone=None, device="cpu", precision="auto", with_text=False)
        self._tower = vit_b32()

    def engine_of(self, model: SavedModel) -> Engine:
        return engine_of(Predictor(model, backbone=self._tower))


if __name__ == "__main__":
    loader = _RandomTower()
    run_server(
        Service({"model": Path(sys.argv[1])}, lambda path: loader, Settings()),
        "127.0.0.1",
        0,
        lambda address: print(address, flush=True),
    )
