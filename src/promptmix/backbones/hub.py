"""Backbones by their name on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``.

What is in the hub's cache on this machine is used without asking the network; only what is not there is downloaded, and only the
files that are read. ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface-hub.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptmix.errors import BackboneError

__all__ = ["fetch_from_hub", "is_hub_name"]

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_SMALL_FILES = (
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "merges.txt",
    "README.md",
)
# In the order of preference; of several only the first that the repository has is downloaded.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors", "pytorch_model.bin")


def is_hub_name(name: str) -> bool:
    """Whether a name has the form ``owner/name`` or ``owner/name@revision``."""
    return _NAME.fullmatch(name) is not None


def fetch_from_hub(name: str) -> tuple[Path, str]:
    """The folder of a repository's files in the hub's cache, and the name with the exact commit, so that it means the same for ever.

    Raises:
        BackboneError: there is no such repository or revision, it holds no weights that can be read, or it is not in the cache and
            cannot be downloaded.
    """
    # Not before it is needed: the library takes half a second to load.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    found = _NAME.fullmatch(name)
    if found is None:
        raise BackboneError(f"{name!r} is no name on the hub; write owner/name or owner/name@revision")
    repository, revision = found["repository"], found["revision"] or "main"
    with contextlib.suppress(LocalEntryNotFoundError, ValueError):
        cached = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(_SMALL_FILES),
            local_files_only=True,
            cache_dir=constants.HF_HUB_CACHE,
        )
        folder = Path(cached)
        if _chosen_weights([path.name for path in folder.iterdir()]) is not None:
            return folder, f"{repository}@{folder.name}"
    if constants.is_offline_mode():
        raise BackboneError(
            f"{name} is not in the hub's cache on this machine ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to download it"
        )
    try:
        with _quiet_off_a_terminal():
            folder = _download(repository, revision)
    except HfHubHTTPError as problem:
        raise BackboneError(
            f"the hub refuses {name}: {_first_line(problem)}; check the name, or log in with `hf auth login`"
        ) from problem
    except BackboneError:
        raise
    except (
        Exception
    ) as problem:  # no network, no room, a broken transfer: the library below the hub's changes, and its errors with it
        raise BackboneError(
            f"{name} is not in the hub's cache on this machine and cannot be downloaded ({type(problem).__name__}:"
            f" {_first_line(problem)}); check the network, or give a folder with the files"
        ) from problem
    return folder, f"{repository}@{folder.name}"


def _download(repository: str, revision: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    present = HfApi().list_repo_files(repository, revision=revision)
    weights = _chosen_weights(present)
    if weights is None:
        raise BackboneError(f"{repository}@{revision} holds none of {', '.join(_WEIGHTS)}, so there are no weights to read")
    wanted = [*_SMALL_FILES, weights]
    if weights.endswith(".index.json"):
        wanted.append("model-*.safetensors")
    return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, cache_dir=constants.HF_HUB_CACHE))


def _chosen_weights(names: Sequence[str]) -> str | None:
    return next((one for one in _WEIGHTS if one in names), None)


@contextlib.contextmanager
def _quiet_off_a_terminal() -> Iterator[None]:
    """Progress bars of downloads only where somebody looks."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
