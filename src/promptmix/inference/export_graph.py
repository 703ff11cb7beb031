"""A saved model as one graph of ONNX: pixels in, probabilities out."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.inference.exported import CLASS_FEATURES, INPUT, OUTPUTS
from promptmix.nn.classifier import Classifier

__all__ = ["OPSET", "ExportedModule", "onnx_graph"]

OPSET = 18
"""Version of ONNX's operators that graphs are written in; every onnxruntime since 1.14 runs it."""

_TRACED_BATCH = 2  # a batch of one would be taken for a number that is always one


class ExportedModule(nn.Module):
    """Image tower, image side, router, experts, votes and calibration as one module.

    Args:
        backbone: on the CPU, in float32.
        temperature: of the calibration; 1 without one.
    """

    def __init__(self, backbone: Backbone, classifier: Classifier, temperature: float) -> None:
        super().__init__()
        self.tower = backbone.vision
        self._backbone = backbone
        self._classifier, self._temperature = classifier, temperature

    @property
    def classes_are_open(self) -> bool:
        """Whether any number of classes would do; a bias for each class settles it."""
        return self._classifier.class_bias is None

    def forward(
        self, pixels: UInt8[Tensor, "image height width 3"], class_features: Float[Tensor, "expert class embedding"]
    ) -> tuple[
        Float[Tensor, "image class"],
        Float[Tensor, "image class"],
        Float[Tensor, "image expert"],
        Float[Tensor, "image embedding"],
    ]:
        """Logits, calibrated probabilities, weights of the experts and image features of resized and cropped pictures."""
        features = self._backbone.encode_pixels(pixels)
        classifier = replace(self._classifier, class_features=class_features)
        logits = classifier.logits(features)
        probabilities = (logits / self._temperature).softmax(dim=1)
        return logits, probabilities, classifier.expert_weights(features), features


def onnx_graph(module: ExportedModule, class_features: Float[Tensor, "expert class embedding"], crop: int) -> Any:
    """The module as a model of onnx (a ``ModelProto``), for any number of pictures.

    The class features are traced as an input and become an initializer afterwards: else what is calculated from them alone would be
    calculated now, and other class features could not be put in their place. Their number of classes is open, unless each class has
    a bias.

    Raises:
        ConfigError: the libraries for ONNX are not installed.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it, and says so in many lines
        from onnx import numpy_helper
    except ImportError as problem:
        raise ConfigError("exporting needs onnx and onnxscript; install them with pip install 'promptmix[onnx]'") from problem
    pixels = torch.zeros(_TRACED_BATCH, crop, crop, 3, dtype=torch.uint8)
    open_classes = {1: torch.export.Dim("class")} if module.classes_are_open else None
    shapes = {INPUT: {0: torch.export.Dim("batch")}, CLASS_FEATURES: open_classes}
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            module.eval(),
            (pixels, class_features),
            dynamo=True,
            input_names=[INPUT, CLASS_FEATURES],
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    (given,) = [one for one in model.graph.input if one.name == CLASS_FEATURES]
    model.graph.input.remove(given)
    model.graph.initializer.append(numpy_helper.from_array(class_features.numpy(), CLASS_FEATURES))
    _forget_origin(model.graph)
    return model


def _forget_origin(graph: Any) -> None:
    """Remove what the exporter notes of each node: the lines of code that it comes from, with their paths on this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells at length of what concerns only its authors."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
