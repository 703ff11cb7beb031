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
def served(model: Path, *options: str, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; it is told to stop at the end.

    Args:
        before: Python that the process runs before anything else.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PROMPTMIX_SERVE_TOKEN": TOKEN}
    program = ["-c", f"{before}\nfrom promptmix.cli.main import run\nrun()"] if before else ["-m", "promptmix"]
    command = [sys.executable, *program, "serve", str(model), "--port", "0", "--device", "cpu", *options]
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
