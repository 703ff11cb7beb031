"""Backbones by their name on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``.

What is whole in the hub's cache on this machine is used without asking the network; else what is missing is downloaded, and only the
files that are read. ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface-hub.
"""

from __future__ import annotations

from pathlib import Path

from promptmix.backbones.files import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    TRANSFORMERS_WEIGHTS,
    kind_of_folder,
    read_json,
    weight_map,
)
from promptmix.errors import BackboneError, listed
from promptmix.hub_access import SECONDS_TO_ANSWER, first_line, quiet_off_a_terminal, split_hub_name

__all__ = ["cached_folder", "fetch_from_hub"]

_CONFIGS = ("config.json", OPEN_CLIP_CONFIG)
_TOKENIZERS = ("tokenizer.json", "merges.txt")
_SMALL_FILES = (
    *_CONFIGS,
    *_TOKENIZERS,
    "preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
)


def fetch_from_hub(name: str) -> tuple[Path, str]:
    """The folder of a repository's files in the hub's cache, and the name with the exact commit, so that it means the same for ever.

    Raises:
        BackboneError: there is no such repository or revision, it holds no weights that can be read, or it is not in the cache and
            cannot be downloaded.
    """
    # Not before it is needed: the library takes half a second to load.
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    found = split_hub_name(name)
    if found is None:
        raise BackboneError(f"{name!r} is no name on the hub; write owner/name or owner/name@revision")
    repository, revision = found[0], found[1] or "main"
    try:
        folder = cached_folder(repository, revision)
    except HFValidationError as problem:
        raise BackboneError(f"there is no folder {name!r}, and it is no name on the hub: {first_line(problem)}") from problem
    lacks = ["everything"] if folder is None else _missing(folder)
    if folder is not None and not lacks:
        return folder, f"{repository}@{folder.name}"
    nowhere = f"there is no folder {name!r}, and the hub's cache on this machine ({constants.HF_HUB_CACHE}) lacks {', '.join(lacks)} of it"
    if constants.is_offline_mode():
        raise BackboneError(f"{nowhere}; HF_HUB_OFFLINE forbids to download it")
    try:
        with quiet_off_a_terminal():
            folder = _download(repository, revision)
    except BackboneError:
        raise
    except HfHubHTTPError as problem:
        raise BackboneError(
            f"{nowhere}; the hub refuses it: {first_line(problem)}; check the name, or log in with `hf auth login`"
        ) from problem
    except (
        Exception
    ) as problem:  # no network, no room, a broken transfer: the library below the hub's changes, and its errors with it
        raise BackboneError(
            f"{nowhere}; it cannot be downloaded ({type(problem).__name__}: {first_line(problem)}); check the network, or give a"
            " folder with the files"
        ) from problem
    return folder, f"{repository}@{folder.name}"


def cached_folder(repository: str, revision: str) -> Path | None:
    """The folder of this revision in the cache, whole or not; None where there is none. The network is not asked."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    for name in _CONFIGS:
        path = try_to_load_from_cache(repository, name, cache_dir=HF_HUB_CACHE, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _missing(folder: Path) -> list[str]:
    """What a cached folder lacks of a backbone; another program may have fetched a part of it for its own needs."""
    names = {path.name for path in folder.iterdir()}
    kind = kind_of_folder(names, read_json(folder / "config.json") if "config.json" in names else {})
    choices = OPEN_CLIP_WEIGHTS if kind == "open_clip" else TRANSFORMERS_WEIGHTS
    weights = next((name for name in choices if name in names), None)
    lacks = [] if weights is not None else ["weights"]
    if weights is not None and weights.endswith(".index.json"):
        lacks += sorted(set(weight_map(folder / weights).values()) - names)
    if kind in ("clip", "siglip", "siglip2") and "preprocessor_config.json" not in names:
        lacks.append("preprocessor_config.json")
    # An open_clip repository may do without: its tokenizer is that of OpenAI unless the config says otherwise.
    if kind != "open_clip" and not any(name in names for name in _TOKENIZERS):
        lacks.append("tokenizer.json")
    return lacks


def _download(repository: str, revision: str) -> Path:
    """Fetch the small files, then the one file of weights (or the several of an index) that will be read."""
    from huggingface_hub import HfApi, constants, snapshot_download

    def fetch(names: list[str]) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=names, cache_dir=constants.HF_HUB_CACHE))

    # Asked once and briefly; the library would ask for half a minute where there is no network.
    siblings = HfApi().model_info(repository, revision=revision, timeout=SECONDS_TO_ANSWER).siblings or []
    present = [one.rfilename for one in siblings]
    folder = fetch(list(_SMALL_FILES))
    kind = kind_of_folder(present, read_json(folder / "config.json") if "config.json" in present else {})
    choices = OPEN_CLIP_WEIGHTS if kind == "open_clip" else TRANSFORMERS_WEIGHTS
    weights = next((name for name in choices if name in present), None)
    if kind is None or weights is None:
        raise BackboneError(
            f"{repository}@{revision} on the hub is no CLIP or SigLIP that can be read: it has {listed(present) or 'no files'}"
        )
    folder = fetch([*_SMALL_FILES, weights])
    if weights.endswith(".index.json"):
        folder = fetch([*_SMALL_FILES, weights, *sorted(set(weight_map(folder / weights).values()))])
    return folder
