"""Prediction from an exported model by onnxruntime alone: neither torch nor a backbone is loaded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from promptmix.backbones.preprocess import View, resize_and_crop
from promptmix.data.images import PictureSource, StoredPicture, open_picture
from promptmix.errors import CheckpointError, ConfigError, DataError, UnreadablePictureError
from promptmix.evaluation.predictions import predictions_of
from promptmix.inference.exported import INPUT, OUTPUTS, facts_of
from promptmix.inference.predicted import PredictedBatch

__all__ = ["GraphOutputs", "OnnxPredictor"]

_BATCH = 32
_MOST_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class GraphOutputs:
    """What the graph says of some pictures; float32."""

    logits: Float[np.ndarray, "image class"]
    probabilities: Float[np.ndarray, "image class"]
    expert_weights: Float[np.ndarray, "image expert"]
    features: Float[np.ndarray, "image embedding"]


class OnnxPredictor:
    """An exported model ready to predict, on the CPU.

    Args:
        path: the file that ``promptmix export`` has written.
        threads: that one run may use; None: as onnxruntime sees fit.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: there is no such file, it is damaged, was changed, or is not an exported model.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.path = path
        self._session = _session(path, threads)
        self.facts = facts_of(path, self._session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        crop = self.facts.preprocess.crop
        if [(one.name, one.type, one.shape[1:]) for one in inputs] != [(INPUT, "tensor(uint8)", [crop, crop, 3])]:
            raise CheckpointError(
                f"{path}: the graph's input is not {INPUT} of {crop} x {crop} pixels, as its metadata says; export the model again"
            )
        if [(one.name, one.type) for one in outputs] != [(name, "tensor(float)") for name in OUTPUTS]:
            raise CheckpointError(f"{path}: the graph's outputs are not {', '.join(OUTPUTS)}; export the model again")

    def run(self, pixels: UInt8[np.ndarray, "image crop crop 3"]) -> GraphOutputs:
        """What the graph says of resized and cropped pictures.

        Raises:
            CheckpointError: it cannot be run, or says something else than its metadata, or nothing that is a number.
        """
        facts, number = self.facts, len(pixels)
        # What 8-bit weights are multiplied with is rounded by one range for a whole batch: shown together, pictures would change
        # each other's answers.
        shown = np.split(pixels, number) if facts.quantized else [pixels]
        try:
            parts = [self._session.run(list(OUTPUTS), {INPUT: part}) for part in shown]
        except MemoryError:
            raise
        except Exception as problem:  # as in _session
            raise CheckpointError(
                f"{self.path} cannot be run by onnxruntime ({_reason(problem)}); export the model again"
            ) from problem
        found = {name: np.concatenate(said) for name, said in zip(OUTPUTS, zip(*parts, strict=True), strict=True)}
        widths = dict(zip(OUTPUTS, (*[len(facts.class_names)] * 2, len(facts.expert_names), facts.embedding_width), strict=True))
        for name, width in widths.items():
            if found[name].shape != (number, width):
                raise CheckpointError(
                    f"{self.path}: output {name} is {found[name].shape} for {number} pictures, but the metadata has {width} columns"
                )
            if not np.isfinite(found[name]).all():
                raise CheckpointError(f"{self.path}: output {name} has numbers that are not finite; export the model again")
        return GraphOutputs(**found)

    def iter_predict(
        self, pictures: Iterable[PictureSource], *, top: int = 5, skip_bad: bool = False
    ) -> Iterator[PredictedBatch]:
        """Predictions batch by batch, as :meth:`promptmix.inference.predictor.Predictor.iter_predict` gives them.

        Raises:
            DataError: a picture cannot be read and ``skip_bad`` is not set; there are none or, known at the end, none can be read.
        """
        remaining, done, kept_so_far, first_problem = iter(pictures), 0, 0, ""
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="promptmix-pictures") as readers:
            while batch := list(itertools.islice(remaining, _BATCH)):
                views = list(readers.map(self._view_or_problem, batch))
                predicted = self._predicted(batch, views, done, top, skip_bad)
                done, kept_so_far = predicted.done, kept_so_far + len(predicted.kept)
                first_problem = first_problem or (predicted.bad[0][1] if predicted.bad else "")
                yield predicted
        if done == 0:
            raise DataError("there are no pictures")
        if kept_so_far == 0:
            raise DataError(f"none of the {done} pictures can be read; the first: {first_problem}")

    def _view_or_problem(self, picture: PictureSource) -> View | DataError:
        try:
            return resize_and_crop(open_picture(picture), self.facts.preprocess)
        except DataError as problem:
            return problem

    def _predicted(
        self,
        pictures: Sequence[PictureSource],
        views: Sequence[View | DataError],
        first: int,
        top: int,
        skip_bad: bool,
    ) -> PredictedBatch:
        bad: list[tuple[str, str]] = []
        kept: list[int] = []
        for place, (picture, view) in enumerate(zip(pictures, views, strict=True)):
            if not isinstance(view, DataError):
                kept.append(place)
                continue
            # The reason names a file; of pictures in memory only the place in the list tells which one it is.
            named = isinstance(picture, str | Path | StoredPicture)
            name = str(picture) if named else f"picture {first + place}"
            reason = str(view) if named else f"{name}: {view}"
            if not skip_bad:
                raise UnreadablePictureError(reason) from view
            bad.append((name, reason))
        predictions = []
        if kept:
            said = self.run(np.stack([view for view in views if not isinstance(view, DataError)]))
            facts = self.facts
            predictions = predictions_of(
                said.logits, said.expert_weights, facts.class_names, facts.expert_names, top, facts.calibration
            )
        return PredictedBatch(
            predictions=predictions,
            pictures=tuple(pictures[place] for place in kept),
            kept=tuple(first + place for place in kept),
            bad=tuple(bad),
            done=first + len(pictures),
        )


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as problem:
        raise ConfigError("exported models need onnxruntime; install it with pip install 'promptmix[onnx]'") from problem
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; give a file that promptmix export has written")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is told below, in one line
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as problem:  # onnxruntime has an error for each of its ways to fail, and no common one
        raise CheckpointError(f"{path} cannot be loaded by onnxruntime ({_reason(problem)}); export the model again") from problem


def _reason(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200]
