"""Models on the Hugging Face hub: a model folder is a repository, ``owner/name`` or ``owner/name@revision``.

Of a repository only the files of a model and its card are fetched, whatever else lies in it, and they are read as any model folder is:
nothing of it is run. What is sent are these files alone, written anew without the paths and names of files that the model on this machine
remembers. ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface-hub.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptmix.cards.content import model_card, public_backbone_name, without_places
from promptmix.cards.owner import has_own_text, renewed_card
from promptmix.errors import CheckpointError, ConfigError, HubError, PromptMixError, listed
from promptmix.hub_access import SECONDS_TO_ANSWER, first_line, is_commit, is_hub_name, quiet_off_a_terminal, split_hub_name
from promptmix.model_folder import CARD, MODEL_FILES, SavedModel, is_model, read_config, write_card, write_model
from promptmix.runtime import write_text

__all__ = ["cached_model", "fetch_model", "pretrained_folder", "public_model", "push_model", "stored_model", "write_public"]

logger = logging.getLogger(__name__)

# As a path has it, two slashes are one.
_ASKED = re.compile("hf:/{0,2}([^/].*)")


def stored_model(place: Path) -> Path:
    """The folder of a model that a person named on the command line: a folder or file, which is given back as it is, or a name on the hub.

    ``hf://owner/name[@revision]`` is fetched. A plain ``owner/name`` means a folder; where there is none, the hub's cache on this machine,
    and the network is not asked.

    Raises:
        ConfigError: what follows ``hf:`` is no name. HubError, CheckpointError: as :func:`fetch_model`.
    """
    asked = _ASKED.fullmatch(place.as_posix())
    if asked is not None:
        return fetch_model(asked[1])
    name = place.as_posix()
    if place.exists() or not is_hub_name(name) or place.parent.is_dir():
        return place
    folder = cached_model(name)
    if folder is None:
        raise CheckpointError(f"there is no folder {name!r}; a model on the hub is fetched as hf://{name}")
    return folder


def pretrained_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model by its path, or by its name on the hub, which is asked where there is no such folder.

    Raises:
        ConfigError: a revision of a folder was asked for. HubError, CheckpointError: as :func:`fetch_model`.
    """
    place = Path(name)
    asked = _ASKED.fullmatch(place.as_posix())
    text = place.as_posix() if asked is None else asked[1]
    if asked is None and (place.exists() or not is_hub_name(text) or place.parent.is_dir()):
        if revision is not None:
            raise ConfigError(f"revision {revision!r} is of a model on the hub, but {str(name)!r} is a folder; leave it out")
        return place
    return fetch_model(text, revision)


def cached_model(name: str) -> Path | None:
    """The folder of a model in the hub's cache on this machine, whole; None where it is not there. The network is not asked."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    found = split_hub_name(name)
    if found is None:
        return None
    try:
        paths = [
            try_to_load_from_cache(found[0], file, cache_dir=constants.HF_HUB_CACHE, revision=found[1] or "main")
            for file in MODEL_FILES
        ]
    except HFValidationError:
        return None
    folders = {Path(path).parent for path in paths if isinstance(path, str)}
    whole = all(isinstance(path, str) for path in paths) and len(folders) == 1
    return folders.pop() if whole else None


def fetch_model(name: str, revision: str | None = None) -> Path:
    """The folder of a model on the hub, in the hub's cache on this machine.

    An exact commit that is in the cache is used as it is. Else the hub is asked what the revision is now; where it cannot be asked, what the
    cache has is used, and that is said.

    Args:
        name: ``owner/name`` or ``owner/name@revision``. revision: a branch, tag or commit; ``main`` unless told otherwise.

    Raises:
        ConfigError: the name is none, or two revisions are given.
        HubError: there is no such model on the hub, it is private, or it cannot be downloaded.
        CheckpointError: the repository holds no model of promptmix.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, named = _parsed(name)
    if revision is not None and named is not None:
        raise ConfigError(f"{name!r} names a revision, and {revision!r} is another; give one of them")
    wanted = revision or named or "main"
    full_name = f"{repository}@{wanted}"
    if not is_hub_name(full_name):
        raise ConfigError(f"revision {wanted!r} is no branch, tag or commit")
    cached = cached_model(full_name)
    if cached is not None and is_commit(wanted):
        return cached
    if constants.is_offline_mode():
        if cached is None:
            raise HubError(
                f"{full_name} is not in the hub's cache on this machine ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to"
                " download it"
            )
        return cached
    try:
        with _told(full_name, "read"), quiet_off_a_terminal():
            siblings = HfApi().model_info(repository, revision=wanted, timeout=SECONDS_TO_ANSWER).siblings or []
            present = sorted(one.rfilename for one in siblings)
            lacking = [file for file in MODEL_FILES if file not in present]
            if lacking:
                raise CheckpointError(
                    f"{full_name} on the hub is no model of promptmix: it lacks {', '.join(lacking)}, and has {listed(present) or 'no files'}"
                )
            ours = [*MODEL_FILES, CARD]
            fetched = snapshot_download(
                repository, revision=wanted, allow_patterns=ours, cache_dir=constants.HF_HUB_CACHE, etag_timeout=SECONDS_TO_ANSWER
            )
            folder = Path(fetched)
    except HubError as problem:
        if cached is None or isinstance(problem.__cause__, HfHubHTTPError):  # the hub did answer
            raise
        logger.warning("the hub cannot be asked whether %s has changed; what is in the cache is used", full_name)
        return cached
    if not is_model(folder):
        raise CheckpointError(f"{full_name} on the hub is no model of promptmix: its config.json is of something else")
    return folder


def public_model(model: SavedModel, backbone_name: str | None = None) -> SavedModel:
    """The same model without what it remembers of this machine: paths and names of files in what it tells of its training.

    Args:
        backbone_name: what others find the backbone by; unless told otherwise the name it has here, without its folder.
    """
    training: dict[str, Any] = dict(model.training)
    for key, count in (("data", training.get("num_training_pictures")), ("measured_on", _number_measured(training))):
        if key in training:
            training[key] = "pictures" if count is None else f"{count} pictures"
    if isinstance(training.get("notes"), list):
        training["notes"] = [without_places(str(note)) for note in training["notes"]]
    calibration = model.calibration
    if calibration is not None:
        calibration = calibration.model_copy(update={"fitted_on": f"{calibration.num_pictures} pictures"})
    name = backbone_name or public_backbone_name(model.backbone_name)
    return dataclasses.replace(model, backbone_name=name, training=training, calibration=calibration)


def write_public(folder: Path, model: SavedModel, name: str, own_folder: Path | None = None) -> None:
    """Write into a new folder what :func:`push_model` sends: the model, and a card that knows its name on the hub.

    Args:
        model: as it is to be read by others; see :func:`public_model`.
        name: of the repository.
        own_folder: the model's folder on this machine; what its owner wrote into its card is kept.

    Raises:
        ConfigError: the name is none. DataError: the folder is not empty, or cannot be written.
    """
    repository, _ = _parsed(name)
    write_model(folder, model)
    fresh = model_card(read_config(folder), model.class_names, model.calibration, repository, model.class_words)
    before, text = None, fresh
    if own_folder is not None and (own_folder / CARD).is_file():
        before = model_card(read_config(own_folder), model.trained_class_names)
        text = (own_folder / CARD).read_text(encoding="utf-8", errors="replace")
    write_text(folder / CARD, text if before is not None and has_own_text(text, before) else fresh)
    write_card(folder, fresh, before)


def push_model(
    model: SavedModel,
    name: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    own_folder: Path | None = None,
) -> str:
    """Send a model to its repository on the hub, which is made where there is none.

    A card that is there keeps what its owner wrote, unless the model's own card has such text.

    Args:
        model: as it is to be read by others; see :func:`public_model`.
        name: ``owner/name``.
        private: whether a repository that is made is private; None: as the owner's settings on the hub say.
        revision: branch to write to, made where there is none; ``main`` unless told otherwise.
        message: of the commit.
        own_folder: as for :func:`write_public`.

    Returns:
        ``owner/name@commit``, which means this very model for ever.

    Raises:
        ConfigError: the name is none.
        HubError: nobody is logged in, the network may not be asked, or the hub refuses; the message says what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    repository, named = _parsed(name)
    if named is not None:
        raise ConfigError(f"{name!r} names a revision; give a branch to write to as --revision (in Python: revision=)")
    if revision is not None and not is_hub_name(f"{repository}@{revision}"):
        raise ConfigError(f"revision {revision!r} cannot be the name of a branch")
    if constants.is_offline_mode():
        raise HubError(f"{repository} cannot be written: HF_HUB_OFFLINE forbids to ask the hub")
    if get_token() is None:
        raise HubError(f"{repository} cannot be written: nobody is logged in; say `hf auth login`, or set HF_TOKEN")
    with tempfile.TemporaryDirectory(prefix="promptmix-") as temporary, _told(repository, "written"), quiet_off_a_terminal():
        folder = Path(temporary) / "model"
        write_public(folder, model, repository, own_folder)
        api = HfApi()
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        if private and not api.model_info(repository, timeout=SECONDS_TO_ANSWER).private:
            raise HubError(
                f"{repository} is there already and is public, so nothing was sent; leave out private, or change it on the hub"
            )
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        files = [*MODEL_FILES, CARD] if _join_card(folder, repository, revision, model) else list(MODEL_FILES)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in files],
            commit_message=message or f"A {model.method} model of {len(model.class_names)} classes",
            revision=revision,
        )
    return f"{repository}@{commit.oid}"


def _join_card(folder: Path, repository: str, revision: str | None, model: SavedModel) -> bool:
    """Let a card that is on the hub keep what its owner wrote there; False where it is wholly the owner's and is to stay as it is."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    fresh = model_card(read_config(folder), model.class_names, model.calibration, repository, model.class_words)
    if has_own_text((folder / CARD).read_text(encoding="utf-8"), fresh):
        return True
    try:
        there = Path(hf_hub_download(repository, CARD, revision=revision, local_dir=folder.parent / "there"))
    except LocalEntryNotFoundError:  # the hub could not be asked
        raise
    except EntryNotFoundError:
        return True
    joined = renewed_card(there.read_text(encoding="utf-8", errors="replace"), fresh)
    if joined is None:
        logger.warning("the card of %s has no marks of promptmix in it and is left as it is", repository)
        return False
    write_text(folder / CARD, joined)
    return True


def _number_measured(training: dict[str, Any]) -> int | None:
    metrics = training.get("metrics")
    return metrics.get("num_pictures") if isinstance(metrics, dict) else None


def _parsed(name: str) -> tuple[str, str | None]:
    found = split_hub_name(name.removeprefix("hf://"))
    if found is None or any(part.startswith((".", "-")) for part in found[0].split("/")):  # the hub has none of these
        raise ConfigError(f"{name!r} is no name on the hub; write owner/name, such as somebody/my-flowers")
    return found


@contextmanager
def _told(name: str, done: str) -> Iterator[None]:
    """What goes wrong with the hub, in a line that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except PromptMixError:
        raise
    except HFValidationError as problem:
        raise ConfigError(f"{name!r} is no name on the hub: {first_line(problem)}") from problem
    except GatedRepoError as problem:
        raise HubError(f"{name} is open only to those whom its owner lets in; ask for access on its page on the hub") from problem
    except RevisionNotFoundError as problem:
        raise HubError(f"{name} cannot be {done}: the repository has no such revision; check the name of the branch") from problem
    except RepositoryNotFoundError as problem:
        raise HubError(
            f"{name} cannot be {done}: there is no such repository on the hub, or it is private and you are not logged in as somebody who"
            " may see it; check the name, or say `hf auth login`"
        ) from problem
    except HfHubHTTPError as problem:
        status = problem.response.status_code
        may = "; this token may not do that: make one that may write at https://huggingface.co/settings/tokens"
        hint = may if status in (401, 403) else "; try again later" if status >= 500 else ""
        raise HubError(f"{name} cannot be {done}: the hub refuses it ({first_line(problem)}){hint}") from problem
    except (
        Exception
    ) as problem:  # no network, no room, a broken transfer: the library below the hub's changes, and its errors with it
        raise HubError(
            f"{name} cannot be {done}: {type(problem).__name__}: {first_line(problem)}; check the network and try again"
        ) from problem
