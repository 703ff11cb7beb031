"""The models of a server: read from their folders, replaced when these change, and their classes changed while they answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from promptmix.backbones.base import Backbone
from promptmix.data.class_words import ClassWords
from promptmix.errors import CheckpointError, ConfigError, DataError, PromptMixError, did_you_mean
from promptmix.inference.predictor import Predictor, backbone_of, needs_text
from promptmix.model_folder import SavedModel, model_path, read_model, write_classes
from promptmix.runtime import short_hash
from promptmix.serving.batching import Batcher, Versioned
from promptmix.serving.engine import Engine, TorchEngine
from promptmix.serving.settings import Settings

__all__ = ["EngineLoader", "LoadedModel", "ServedModel", "TorchLoader", "model_names", "named"]

_logger = logging.getLogger(__name__)

_FILES = ("config.json", "model.safetensors", "class_features.safetensors")
_FolderState = tuple[tuple[int, int, int], ...]


@runtime_checkable
class EngineLoader(Protocol):
    """Makes engines of model folders; called from one thread at a time for each model."""

    def load(self, model: SavedModel, folder: Path) -> Engine:
        """An engine of a model that was just read from its folder."""
        ...

    def text_backbone(self, model: SavedModel) -> Backbone:
        """The model's backbone with its text tower, to add and rename classes with.

        Raises:
            ConfigError: this kind of engine cannot change classes.
        """
        ...


class TorchLoader:
    """Loads with torch; a backbone stays in memory as long as the models are of it.

    Args:
        backbone: where the model's backbone lies now, if elsewhere.
        device, precision: as for prediction.
        with_text: keep the text tower too, so that classes can be added.
    """

    def __init__(self, *, backbone: str | None, device: str, precision: str, with_text: bool) -> None:
        self._elsewhere, self._device, self._precision, self._with_text = backbone, device, precision, with_text
        self._backbone: Backbone | None = None

    def load(self, model: SavedModel, folder: Path) -> Engine:
        return TorchEngine(Predictor(model, backbone=self._backbone_of(model, self._with_text or needs_text(model))))

    def text_backbone(self, model: SavedModel) -> Backbone:
        return self._backbone_of(model, True)

    def _backbone_of(self, model: SavedModel, with_text: bool) -> Backbone:
        loaded = self._backbone
        fits = loaded is not None and loaded.fingerprint == model.backbone_fingerprint and not (with_text and loaded.text is None)
        if loaded is None or not fits:
            loaded = backbone_of(model, self._elsewhere, with_text=with_text, device=self._device, precision=self._precision)
            self._backbone = loaded
        return loaded


@dataclass(frozen=True, kw_only=True)
class LoadedModel(Versioned):
    """One state of a model folder, ready to answer.

    Attributes:
        state: of its files when it was read.
        class_words: by class name the words of classes that have more than a name.
    """

    method: str
    backbone_name: str
    state: _FolderState
    class_words: Mapping[str, ClassWords]


class ServedModel:
    """A model under its name.

    Its version is ``N-HASH``: N counts what was loaded since the server started, HASH is of the files' content.

    Args:
        on_reload: told whether a changed folder could be read.

    Raises:
        CheckpointError, BackboneError: the folder is no model, or its backbone cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        loader: EngineLoader,
        settings: Settings,
        *,
        on_batch: Callable[[int, float], None] = lambda pictures, seconds: None,
        on_reload: Callable[[bool], None] = lambda worked: None,
    ) -> None:
        self.name = name
        self._folder, self._loader, self._on_reload = folder, loader, on_reload
        self._count = 0
        self._lock = asyncio.Lock()
        self._failed: _FolderState | None = None
        self.current = self._load()
        self.batcher: Batcher[LoadedModel] = Batcher(
            lambda: self.current,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            max_queue=settings.max_queue,
            on_batch=on_batch,
        )

    async def reload_if_changed(self) -> bool:
        """Read the folder again where its files are others than before; a folder that cannot be read leaves the model as it is."""
        async with self._lock:
            state = await asyncio.to_thread(self._state)
            if state in (None, self.current.state, self._failed):
                return False
            try:
                self.current = await asyncio.to_thread(self._load)
            except (PromptMixError, OSError) as problem:
                self._failed = state
                _logger.warning("model %s stays as it was: %s", self.name, problem)
                self._on_reload(False)
                return False
            self._on_reload(True)
            _logger.info("model %s is now version %s", self.name, self.current.version)
            return True

    async def change_classes(self, change: Callable[[SavedModel, Callable[[], Backbone]], SavedModel]) -> LoadedModel:
        """Change the classes on disk in one step, then answer with them; one change at a time.

        Args:
            change: from the model, and a function that gives its backbone with the text tower, to the model with other classes.

        Raises:
            ConfigError, DataError, CheckpointError: the change is not possible; then nothing has changed.
        """
        # Shielded: whoever asked may go, but what is written is also answered with.
        return await asyncio.shield(asyncio.get_running_loop().create_task(self._change_alone(change)))

    async def _change_alone(self, change: Callable[[SavedModel, Callable[[], Backbone]], SavedModel]) -> LoadedModel:
        async with self._lock:
            self.current = await asyncio.to_thread(self._change, change)
            return self.current

    def _change(self, change: Callable[[SavedModel, Callable[[], Backbone]], SavedModel]) -> LoadedModel:
        folder = model_path(self._folder)
        model = read_model(folder)
        changed = change(model, lambda: self._loader.text_backbone(model))
        write_classes(folder, changed)
        return self._load()

    def _load(self) -> LoadedModel:
        folder = model_path(self._folder)
        state = self._state()
        model = read_model(folder)
        content = [(folder / name).read_bytes() for name in ("config.json", "class_features.safetensors")]
        if state is None or state != self._state():
            raise CheckpointError(f"{folder} changed while it was read; try again when it is still")
        engine = self._loader.load(model, folder)
        self._count += 1
        self._failed = None
        return LoadedModel(
            engine=engine,
            version=f"{self._count}-{short_hash(*content)[:12]}",
            method=model.method,
            backbone_name=model.backbone_name,
            state=state,
            class_words=model.class_words,
        )

    def _state(self) -> _FolderState | None:
        """What the system says of the model's files; None while one is missing, because the folder is being replaced."""
        folder = model_path(self._folder)
        try:
            every = [(folder / name).stat() for name in _FILES]
        except OSError:
            return None
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in every)


def model_names(arguments: list[str]) -> dict[str, Path]:
    """Folders by name, of ``name=folder`` or ``folder`` alone, whose name is that of the folder.

    Raises:
        DataError: two have the same name, or a name holds other signs than letters, digits, ``-``, ``_`` and ``.``.
        ConfigError: no folder is given.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, place = argument.partition("=")
        folder = Path(place if equals else argument)
        if not equals:
            resolved = folder.resolve()
            name = resolved.parent.name if resolved.name == "model" and len(resolved.parts) > 2 else resolved.name
        if not name or not all(sign.isalnum() or sign in "-_." for sign in name):
            raise DataError(f"{name!r} is no name of a model; letters, digits, '-', '_' and '.' are: write name={folder}")
        if name in found:
            raise DataError(f"two models are called {name!r}; give them names: first={found[name]} second={folder}")
        found[name] = folder
    if not found:
        raise ConfigError("no model was given to serve")
    return found


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
