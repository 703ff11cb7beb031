"""What a server asks of whatever runs a model, and of whatever reads one. Nothing here loads torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from promptmix.backbones.configs import PreprocessConfig
from promptmix.data.class_words import ClassWords
from promptmix.errors import CheckpointError
from promptmix.nn.calibration import Calibration

__all__ = [
    "AddClasses",
    "ClassChange",
    "Engine",
    "EngineLoader",
    "EngineOutput",
    "FileState",
    "ReadModel",
    "RemoveClasses",
    "RenameClass",
    "file_state",
    "unchanged",
]

FileState: TypeAlias = tuple[tuple[int, int, int], ...]
"""What the system says of a model's files: inode, time of the last change and size of each."""


@dataclass(frozen=True, kw_only=True)
class EngineOutput:
    """What a model says of a batch of pictures.

    Attributes:
        logits: before any calibration.
        expert_weights: rows sum to 1.
        features: normalised image features; None where the engine does not give them.
    """

    logits: Float32[np.ndarray, "image class"]
    expert_weights: Float32[np.ndarray, "image expert"]
    features: Float32[np.ndarray, "image embedding"] | None

    def rows(self, first: int, end: int) -> EngineOutput:
        """Those of some pictures that follow one another."""
        features = None if self.features is None else self.features[first:end]
        return EngineOutput(logits=self.logits[first:end], expert_weights=self.expert_weights[first:end], features=features)


@runtime_checkable
class Engine(Protocol):
    """A model that is ready to predict; ``run`` is called from one thread at a time.

    Attributes:
        class_names: in the order of the logits; ``expert_names`` in that of the weights.
        preprocess: how pictures become its pixels.
        calibration: what makes probabilities of its logits; None: the plain softmax does.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def expert_names(self) -> tuple[str, ...]: ...
    @property
    def preprocess(self) -> PreprocessConfig: ...
    @property
    def calibration(self) -> Calibration | None: ...

    def run(self, pixels: UInt8[np.ndarray, "image crop crop 3"]) -> EngineOutput:
        """What the model says of resized and cropped pictures."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadModel:
    """A model as it was read from its files.

    Attributes:
        content_hash: of the files, 12 hex digits; ``state``: of the files when they were read.
        class_words: by class name the words of classes that have more than a name.
    """

    engine: Engine
    content_hash: str
    state: FileState
    method: str
    backbone_name: str
    class_words: Mapping[str, ClassWords]


@dataclass(frozen=True)
class AddClasses:
    """Classes to add, by their words."""

    classes: tuple[ClassWords, ...]


@dataclass(frozen=True)
class RenameClass:
    """Other words for the class that is called ``old``."""

    old: str
    new: ClassWords


@dataclass(frozen=True)
class RemoveClasses:
    """Classes to remove, by name."""

    names: tuple[str, ...]


ClassChange: TypeAlias = AddClasses | RenameClass | RemoveClasses


@runtime_checkable
class EngineLoader(Protocol):
    """Makes engines of one kind of models; called from one thread at a time for each model.

    Attributes:
        changes_classes: whether such models can have other classes without being trained or exported again.
    """

    @property
    def changes_classes(self) -> bool: ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that make another model when they change."""
        ...

    def load(self, path: Path) -> ReadModel:
        """The model that lies at a path now.

        Raises:
            CheckpointError, BackboneError, ConfigError: it cannot be read or run.
        """
        ...

    def change_classes(self, path: Path, change: ClassChange) -> None:
        """Change the classes of the model that lies at a path, in one step.

        Raises:
            ConfigError, DataError, CheckpointError: the change is not possible; then nothing has changed.
            Problem: such models cannot have other classes.
        """
        ...


def file_state(files: Sequence[Path]) -> FileState | None:
    """The state of files; None while one is missing, because the model is being replaced."""
    try:
        every = [file.stat() for file in files]
    except OSError:
        return None
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in every)


@contextlib.contextmanager
def unchanged(path: Path, loader: EngineLoader) -> Iterator[FileState]:
    """The state of a model's files, which are read within the block.

    Raises:
        CheckpointError: a file is missing at the end of the block, or they have changed within it.
    """
    before = file_state(loader.files(path))
    yield before or ()
    if before is None or before != file_state(loader.files(path)):
        raise CheckpointError(f"{path} changed while it was read; try again when it is still")
