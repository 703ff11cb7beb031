"""A real server in a process of its own, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.serving.conftest import TOKEN


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; it is told to stop at the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PROMPTMIX_SERVE_TOKEN": TOKEN}
    command = [sys.executable, "-m", "promptmix", "serve", str(folder), "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate(timeout=20)
        yield process, address
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
