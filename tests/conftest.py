"""What all tests share: shapes and types are checked on every call, nothing reaches the network, nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from tests import type_checks

# Libraries read these when they are first imported, so they are set before that; processes that tests start have them too.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)
# A shell that starts the tests in the background may have them ignore Ctrl-C, which some of them press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
    os.environ.pop(name, None)

type_checks.install("promptmix")

hypothesis.settings.register_profile("promptmix", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("promptmix")

REPO_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One torch thread: tests run side by side, and sums are always added up in the same order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The feature cache of this test session, empty at its start."""
    folder = tmp_path_factory.mktemp("promptmix-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTMIX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout the tests lie in."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and golden vectors beside the checkout."""
    folder = REPO_ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name}/ beside the checkout: real pictures and golden vectors are not here")
    return folder


@pytest.fixture
def subprocess_environment() -> dict[str, str]:
    """For processes that import the package from this checkout."""
    import sys

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
