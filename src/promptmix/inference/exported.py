"""What an exported model is: one ONNX file that carries, beside its graph, all that is needed to show it pictures and to read its answers.

    input    pixels          uint8, picture x crop x crop x 3: resized and cropped, not normalised
    outputs  logits          picture x class, before any calibration
             probabilities   picture x class, calibrated
             expert_weights  picture x expert
             features        picture x embedding, of length 1

The class features are the initializer ``class_features`` (expert x class x embedding). What people need stands in the file's metadata:
``promptmix.facts`` is JSON, ``promptmix.checksum`` goes with it. Neither torch nor onnx is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from promptmix.backbones.configs import PreprocessConfig
from promptmix.config import StrictModel
from promptmix.errors import CheckpointError
from promptmix.nn.calibration import Calibration
from promptmix.runtime import short_hash

__all__ = ["CLASS_FEATURES", "INPUT", "OUTPUTS", "SUFFIX", "ExportedFacts", "data_path", "facts_of", "is_exported", "metadata_of"]

SUFFIX = ".onnx"
INPUT = "pixels"
OUTPUTS = ("logits", "probabilities", "expert_weights", "features")
CLASS_FEATURES = "class_features"

_FACTS, _CHECKSUM = "promptmix.facts", "promptmix.checksum"
_LONGEST_FACTS = 2**26  # characters; a million classes with long names fit


class ExportedFacts(StrictModel):
    """All that a graph does not say of itself.

    Attributes:
        promptmix_version: of the promptmix that has written it.
        method, backbone_name, backbone_fingerprint, training: of the model that was exported, without paths and names of files.
        class_names, expert_names: in the order of the graph's outputs; an expert's name is its template.
        preprocess: from a picture to the graph's input; the normalisation is in the graph.
        embedding_width: of the image feature.
        opset: of ONNX, that the graph is written in. ``quantized``: whether matrix products are of 8-bit numbers.
        difference: from torch's probabilities when it was exported: the largest; with 8-bit numbers the mean.
        calibration: its rules; the temperature is in the graph too.
    """

    format: Literal["promptmix-onnx-1"] = "promptmix-onnx-1"
    promptmix_version: str
    method: str
    backbone_name: str
    backbone_fingerprint: str
    training: Mapping[str, Any]
    class_names: tuple[str, ...] = Field(min_length=2)
    expert_names: tuple[str, ...] = Field(min_length=1)
    preprocess: PreprocessConfig
    embedding_width: int = Field(ge=1)
    opset: int = Field(ge=1)
    quantized: bool
    difference: float = Field(ge=0)
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> ExportedFacts:
        if len(set(self.class_names)) < len(self.class_names) or not all(self.class_names):
            raise ValueError("class_names must be different and not empty")
        rule = None if self.calibration is None else self.calibration.multi_label
        if rule is not None and len(rule.thresholds) != len(self.class_names):
            raise ValueError(f"there are {len(self.class_names)} classes but {len(rule.thresholds)} thresholds")
        return self


def is_exported(path: Path | str) -> bool:
    """Whether a path is meant to be that of an exported model: it ends in ``.onnx``."""
    return Path(path).suffix.lower() == SUFFIX


def data_path(path: Path) -> Path:
    """Where the tensors of an exported model lie if it is larger than one file of ONNX may be: beside it."""
    return path.with_name(f"{path.name}.data")


def metadata_of(facts: ExportedFacts) -> dict[str, str]:
    """The entries of the file's metadata."""
    text = facts.model_dump_json()
    return {_FACTS: text, _CHECKSUM: short_hash(text)}


def facts_of(path: Path, metadata: Mapping[str, str]) -> ExportedFacts:
    """Read what :func:`metadata_of` wrote.

    Args:
        path: of the file, for errors.

    Raises:
        CheckpointError: the file is not one of ours, was changed, or is of another format.
    """
    text = metadata.get(_FACTS)
    if text is None:
        raise CheckpointError(f"{path} is no model of promptmix: its metadata has no {_FACTS}; write one with promptmix export")
    if len(text) > _LONGEST_FACTS:
        raise CheckpointError(
            f"{path}: {_FACTS} has {len(text):,} characters, more than {_LONGEST_FACTS:,}; export the model again"
        )
    if metadata.get(_CHECKSUM) != short_hash(text):
        raise CheckpointError(f"{path} was changed: the checksum of its metadata does not fit; export the model again")
    try:
        return ExportedFacts.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"])) or _FACTS
        raise CheckpointError(
            f"{path} has metadata that this promptmix cannot read ({place}: {first['msg']}); update it, or export the model again"
        ) from problem
