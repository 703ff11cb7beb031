"""The models of a server: read from their places, replaced when these change, and their classes changed while they answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from promptmix.data.class_words import ClassWords
from promptmix.errors import ConfigError, DataError, PromptMixError, did_you_mean
from promptmix.inference.exported import is_exported
from promptmix.serving.batching import Batcher, Versioned
from promptmix.serving.engine import ClassChange, EngineLoader, FileState, file_state
from promptmix.serving.settings import Settings

__all__ = ["LoadedModel", "ServedModel", "model_names", "named"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel(Versioned):
    """One state of a model, ready to answer.

    Attributes:
        state: of its files when it was read.
        class_words: by class name the words of classes that have more than a name.
    """

    method: str
    backbone_name: str
    state: FileState
    class_words: Mapping[str, ClassWords]


class ServedModel:
    """A model under its name.

    Its version is ``N-HASH``: N counts what was loaded since the server started, HASH is of the files' content.

    Args:
        path: of the model folder or the exported model.
        on_reload: told whether a changed model could be read.

    Raises:
        CheckpointError, BackboneError, ConfigError: there is no model, or it cannot be run.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        loader: EngineLoader,
        settings: Settings,
        *,
        on_batch: Callable[[int, float], None] = lambda pictures, seconds: None,
        on_reload: Callable[[bool], None] = lambda worked: None,
    ) -> None:
        self.name = name
        self._path, self._loader, self._on_reload = path, loader, on_reload
        self._count = 0
        self._lock = asyncio.Lock()
        self._failed: FileState | None = None
        self.current = self._load()
        self.batcher: Batcher[LoadedModel] = Batcher(
            lambda: self.current,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            max_queue=settings.max_queue,
            on_batch=on_batch,
        )

    @property
    def changes_classes(self) -> bool:
        """Whether it can have other classes without being trained or exported again."""
        return self._loader.changes_classes

    async def reload_if_changed(self) -> bool:
        """Read the model again where its files are others than before; one that cannot be read leaves all as it is."""
        async with self._lock:
            state = await asyncio.to_thread(self._state)
            if state in (None, self.current.state, self._failed):
                return False
            try:
                self.current = await asyncio.to_thread(self._load)
            except Exception as problem:  # whatever is in the files, it is told once, and the other models are still looked at
                self._failed = state
                expected = isinstance(problem, PromptMixError | OSError)
                reason = problem if expected else f"unexpected {type(problem).__name__}: {problem}"
                _logger.warning("model %s stays as it was: %s", self.name, reason)
                self._on_reload(False)
                return False
            self._on_reload(True)
            _logger.info("model %s is now version %s", self.name, self.current.version)
            return True

    async def change_classes(self, change: ClassChange) -> LoadedModel:
        """Change the classes on disk in one step, then answer with them; one change at a time.

        Raises:
            ConfigError, DataError, CheckpointError: the change is not possible; then nothing has changed.
            Problem: 409, this kind of model cannot have other classes.
        """
        # Shielded: whoever asked may go, but what is written is also answered with.
        return await asyncio.shield(asyncio.get_running_loop().create_task(self._change_alone(change)))

    async def _change_alone(self, change: ClassChange) -> LoadedModel:
        async with self._lock:
            self.current = await asyncio.to_thread(self._change, change)
            return self.current

    def _change(self, change: ClassChange) -> LoadedModel:
        self._loader.change_classes(self._path, change)
        return self._load()

    def _load(self) -> LoadedModel:
        read = self._loader.load(self._path)
        self._count += 1
        self._failed = None
        return LoadedModel(
            engine=read.engine,
            version=f"{self._count}-{read.content_hash}",
            method=read.method,
            backbone_name=read.backbone_name,
            state=read.state,
            class_words=read.class_words,
        )

    def _state(self) -> FileState | None:
        return file_state(self._loader.files(self._path))


def model_names(arguments: list[str]) -> dict[str, Path]:
    """Paths by name, of ``name=path`` or ``path`` alone: then the name is that of the folder, or of the file without its ending.

    Raises:
        DataError: two have the same name, or a name holds other signs than letters, digits, ``-``, ``_`` and ``.``.
        ConfigError: no path is given.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, place = argument.partition("=")
        path = Path(place if equals else argument)
        if not equals:
            name = _name_of(path)
        if not name or not all(sign.isalnum() or sign in "-_." for sign in name):
            raise DataError(f"{name!r} is no name of a model; letters, digits, '-', '_' and '.' are: write name={path}")
        if name in found:
            raise DataError(f"two models are called {name!r}; give them names: first={found[name]} second={path}")
        found[name] = path
    if not found:
        raise ConfigError("no model was given to serve")
    return found


def _name_of(path: Path) -> str:
    if is_exported(path):
        return path.stem  # of a link too: what it leads to changes when the model is replaced
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "model" and len(resolved.parts) > 2 else resolved.name


def named(models: Mapping[str, ServedModel], name: str | None) -> ServedModel:
    """The model of a name; without a name the first.

    Raises:
        LookupError: there is none; the message has the names there are.
    """
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise LookupError(f"there is no model {name!r}{did_you_mean(name, models)}")
    return models[name]
