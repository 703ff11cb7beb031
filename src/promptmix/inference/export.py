"""Exporting a saved model to one ONNX file, which is written only if it says what torch says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

import promptmix
from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.data.images import PictureSource, open_picture
from promptmix.data.pictograms import CLASS_NAMES, draw
from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.inference.export_graph import OPSET, ExportedModule, onnx_graph
from promptmix.inference.exported import SUFFIX, ExportedFacts, data_path, is_exported, metadata_of
from promptmix.inference.onnx_predictor import OnnxPredictor
from promptmix.inference.predictor import Predictor, needs_text
from promptmix.model_folder import SavedModel
from promptmix.model_hub import public_model
from promptmix.nn.calibration import probabilities
from promptmix.nn.classifier import Classifier
from promptmix.runtime import numpy_generator, writing

__all__ = ["TOLERANCE", "Agreement", "ExportReport", "Sample", "drawn_sample", "export_model", "refuse_export", "sample_of"]

TOLERANCE = 1e-4
"""The most a probability of an exported model may differ from torch's."""

_LARGEST_FILE = 2**31 - 2**24  # bytes of one file of ONNX, less some for its graph; beyond, tensors go into a second file
_MOST_CHECKED = 512
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Pictures that torch and the graph are compared on, resized and cropped; ``description`` is for people."""

    pixels: UInt8[np.ndarray, "image crop crop 3"]
    description: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the probabilities of two models are apart on the same pictures.

    Attributes:
        same_class: the share of pictures whose most probable class is the same.
        mean_difference, max_difference: of the absolute differences of all probabilities.
    """

    same_class: float
    mean_difference: float
    max_difference: float


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        files: the model, and its data where it is larger than one file of ONNX may be; ``size``: bytes of all.
        num_pictures, checked_on: what was compared.
        agreement: of the graph in float32 with torch; ``quantized``: of the graph with 8-bit products, where that was asked for.
    """

    files: tuple[Path, ...]
    size: int
    num_pictures: int
    checked_on: str
    agreement: Agreement
    quantized: Agreement | None


def refuse_export(model: SavedModel, out: Path, overwrite: bool) -> None:
    """Raise unless this model can be exported to this place.

    Raises:
        ConfigError: its class features depend on the picture, or ``out`` does not end in ``.onnx``.
        DataError: there is something in the way.
    """
    if needs_text(model):
        raise ConfigError(
            f"a model of method {model.method} cannot be exported: it makes its class features anew for each picture, with the text"
            " tower, which an exported model does not have; choose another method, such as mocoop"
        )
    if not is_exported(out):
        raise ConfigError(f"--out {out} does not end in {SUFFIX}; write --out {out.name or 'model'}{SUFFIX}")
    if out.is_dir():
        raise DataError(f"{out} is a folder; choose a file to write to")
    for there in (out, data_path(out)):
        if there.exists() and not overwrite:
            raise DataError(f"{there} is there already; choose another file, or pass --overwrite")


def export_model(
    model: SavedModel, backbone: Backbone, out: Path, sample: Sample, *, quantize: bool = False, overwrite: bool = False
) -> ExportReport:
    """Write a saved model as one ONNX file, whole or not at all.

    Args:
        backbone: its own, on the CPU and in float32.
        sample: what the graph is compared with torch on, in batches of one, two and more pictures.
        quantize: with matrix products of 8-bit numbers in the image tower; what the file says is then only nearly what torch says.

    Raises:
        ConfigError, DataError: as :func:`refuse_export`; or the backbone is in another precision or on
            another device, or the libraries for ONNX are not installed.
        CheckpointError: the backbone is not the model's, or a probability of the graph differs from torch's by more than ``TOLERANCE``.
    """
    refuse_export(model, out, overwrite)
    if backbone.precision != "fp32" or backbone.device.type != "cpu":
        raise ConfigError(f"backbone {backbone.name} is in {backbone.precision} on {backbone.device}; load it with device='cpu'")
    predictor = Predictor(model, backbone=backbone)
    classifier = predictor.classifier
    assert isinstance(classifier, Classifier)
    temperature = 1.0 if model.calibration is None else model.calibration.temperature
    preprocess = backbone.config.preprocess
    module = ExportedModule(predictor.backbone, classifier, temperature)
    told = public_model(model)  # the file is there to be passed on
    graph = onnx_graph(module, classifier.class_features, preprocess.crop)
    expected = _by_torch(predictor, temperature, sample)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as folder:
            plain = Path(folder) / out.name
            _write_graph(graph, plain, data_path(out).name)
            _write_facts(plain, _facts(told, preprocess, classifier, False, 0.0))
            agreement = _compared(plain, temperature, sample, expected)
            if not agreement.max_difference <= TOLERANCE:
                raise CheckpointError(
                    f"the exported graph's probabilities differ from torch's by up to {agreement.max_difference:.2g} on"
                    f" {sample.description}, more than {TOLERANCE:g}; nothing was written"
                )
            staged, quantized, difference = plain, None, agreement.max_difference
            if quantize:
                staged = Path(folder) / "quantized" / out.name
                staged.parent.mkdir()
                _quantize(plain, staged)
                _write_facts(staged, _facts(told, preprocess, classifier, True, 0.0))
                quantized = _compared(staged, temperature, sample, expected)
                difference = quantized.mean_difference
            _write_facts(staged, _facts(told, preprocess, classifier, quantize, difference))
            files = _put_in_place(staged, out)
    return ExportReport(
        files=files,
        size=sum(file.stat().st_size for file in files),
        num_pictures=len(sample.pixels),
        checked_on=sample.description,
        agreement=agreement,
        quantized=quantized,
    )


def drawn_sample(preprocess: PreprocessConfig) -> Sample:
    """Drawn pictures and pictures of noise, the same each time: where there are none of a person's own."""
    generator = numpy_generator(0, "noise to check exported models on")
    noise = generator.integers(0, 256, (15, preprocess.crop, preprocess.crop, 3), dtype=np.uint8)
    drawn = [resize_and_crop(draw(name, "photo", 0), preprocess) for name in CLASS_NAMES[:32]]
    pixels = np.concatenate([np.stack(drawn), noise])
    return Sample(pixels=pixels, description=f"{len(drawn)} drawn pictures and {len(noise)} of noise")


def sample_of(pictures: Sequence[PictureSource], preprocess: PreprocessConfig, what: str) -> Sample:
    """A person's pictures; of more than 512 as many, evenly spread.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    if not pictures:
        raise DataError("there are no pictures to check the exported model on; give at least one")
    places = np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST_CHECKED)).round().astype(int)
    views = [resize_and_crop(open_picture(pictures[place]), preprocess) for place in places.tolist()]
    return Sample(pixels=np.stack(views), description=f"{len(views)} of the {len(pictures)} pictures of {what}")


def _batches(pixels: UInt8[np.ndarray, "image crop crop 3"]) -> list[UInt8[np.ndarray, "some crop crop 3"]]:
    """One picture, two, and then as many as fit, so that a graph that knows only one number of pictures is found out."""
    return [part for part in np.split(pixels, [1, 3, *range(3 + _BATCH, len(pixels), _BATCH)]) if len(part)]


@torch.no_grad()
def _by_torch(predictor: Predictor, temperature: float, sample: Sample) -> Float[np.ndarray, "image class"]:
    batches = [predictor.backbone.encode_pixels(torch.from_numpy(pixels)) for pixels in _batches(sample.pixels)]
    return probabilities(predictor.classifier.logits(torch.cat(batches)).numpy(), temperature)


def _compared(path: Path, temperature: float, sample: Sample, expected: Float[np.ndarray, "image class"]) -> Agreement:
    """What the file says beside what is expected; the graph's probabilities and those of its logits both count."""
    exported = OnnxPredictor(path)
    said = [exported.run(pixels) for pixels in _batches(sample.pixels)]
    logits = np.concatenate([one.logits for one in said])
    of_logits = probabilities(logits, temperature)
    differences = np.stack([np.abs(np.concatenate([one.probabilities for one in said]) - expected), np.abs(of_logits - expected)])
    return Agreement(
        same_class=float((of_logits.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        mean_difference=float(differences[1].mean()),
        max_difference=float(differences.max()),
    )


def _facts(
    model: SavedModel, preprocess: PreprocessConfig, classifier: Classifier, quantized: bool, difference: float
) -> ExportedFacts:
    return ExportedFacts(
        promptmix_version=promptmix.__version__,
        method=model.method,
        backbone_name=model.backbone_name,
        backbone_fingerprint=model.backbone_fingerprint,
        training=dict(model.training),
        class_names=model.class_names,
        expert_names=model.expert_names,
        preprocess=preprocess,
        embedding_width=classifier.class_features.shape[2],
        opset=OPSET,
        quantized=quantized,
        difference=difference,
        calibration=model.calibration,
    )


def _write_graph(graph: Any, path: Path, data_name: str) -> None:
    import onnx

    size = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    onnx.save_model(graph, path, save_as_external_data=size > _LARGEST_FILE, location=data_name)


def _write_facts(path: Path, facts: ExportedFacts) -> None:
    """Replace the metadata of a file of ONNX; tensors in another file stay there."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata_of(facts))
    path.write_bytes(model.SerializeToString())


def _quantize(plain: Path, path: Path) -> None:
    """The matrix products of the image tower with weights of 8 bits, a scale for each column; what they are multiplied with is
    rounded picture by picture as it comes. What follows the image feature stays in float32: it is small, and decides.

    Weights are unsigned: products with signed ones overflow on some processors.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(plain)
    # The library turns weights over, and then stumbles over what is written of their shapes.
    del model.graph.value_info[:]
    # Said to have been prepared: the library would otherwise ask for it, on a logger that is everybody's.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        nodes_to_exclude=_after_features(model.graph),
        use_external_data_format=plain.stat().st_size < sum(file.stat().st_size for file in plain.parent.glob(f"{plain.name}*")),
    )


def _after_features(graph: Any) -> list[str]:
    """The names of the nodes that need the image feature, which stand in an order in which they can be calculated."""
    known, names = {"features"}, []
    for node in graph.node:
        if not known.isdisjoint(node.input):
            known |= set(node.output)
            names += [node.name, f"{node.name}_MatMul"]  # what the library calls the product that it makes of a Gemm
    return names


def _put_in_place(staged: Path, out: Path) -> tuple[Path, ...]:
    data, data_out = data_path(staged), data_path(out)
    pairs, replaces = [(data, data_out)] if data.exists() else [], out.exists()
    for source, target in [*pairs, (staged, out)]:
        with source.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(source, target)
    if replaces and not pairs:
        data_out.unlink(missing_ok=True)
    return (out, *(target for _, target in pairs))
