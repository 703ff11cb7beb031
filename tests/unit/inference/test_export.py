"""An exported model says what the model says: for methods and image towers of every kind, for any number of pictures."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backbone_files import write_clip, write_openai_archive, write_with_vision_transformer
from tests.parity.siglip_files import write_siglip

from promptmix.backbones.base import Backbone
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import CheckpointError, ConfigError, DataError, UnreadablePictureError
from promptmix.inference import export
from promptmix.inference.export import TOLERANCE, Sample, drawn_sample, export_model, sample_of
from promptmix.inference.exported import ExportedFacts, facts_of, metadata_of
from promptmix.inference.onnx_predictor import OnnxPredictor
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import SavedModel
from promptmix.model_hub import public_model
from promptmix.nn.calibration import AbstainRule, Calibration, LabelSetRule, MultiLabelRule, Reliability
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

onnx = pytest.importorskip("onnx", reason="exporting needs the libraries for ONNX")
pytest.importorskip("onnxruntime", reason="exported models run by onnxruntime")
pytest.importorskip("onnxscript", reason="exporting needs the libraries for ONNX")

NAMES = ("anchor", "cat", "snowflake", "umbrella")
# Besides mocoop, the mixture below, and zero-shot, which the towers are tried with.
METHODS = ("promptmix", "coop", "tip-adapter", "linear-probe", "maple", "clip-lora")
WITHOUT_STEPS = ("zero-shot", "tip-adapter", "linear-probe")


def drawn(per_class: int, seed: int) -> LabelledPictures:
    pictures = draw_set(NAMES, ("stamp",), per_class, seed)
    labels = [NAMES.index(one.class_name) for one in pictures]
    return LabelledPictures(pictures=[one.image for one in pictures], labels=labels, class_names=NAMES, description="drawn")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone") / "small"
    write_with_vision_transformer(folder)
    return load_backbone(str(folder), device="cpu")


def model_of(method: str, backbone: Backbone) -> SavedModel:
    recipe = {} if method in WITHOUT_STEPS else {"epochs": 1, "batch_size": 8}
    return run(RunConfig.model_validate({"method": method, "recipe": recipe}), drawn(2, 1), backbone=backbone, cache=None).model


@pytest.fixture(scope="module")
def mixture(backbone: Backbone) -> SavedModel:
    return model_of("mocoop", backbone)


@pytest.fixture(scope="module")
def graphs() -> list[Any]:
    """The graph of the mixture without a calibration, once it has been made."""
    return []


@pytest.fixture
def made_once(graphs: list[Any]) -> Iterator[None]:
    """For tests of what becomes of this graph, which takes long to make."""
    make = export.onnx_graph

    def once(*given: Any) -> Any:
        if not graphs:
            graphs.append(make(*given))
        return copy.deepcopy(graphs[0])  # writing it may take it apart

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_graph", once)
        yield


@pytest.fixture(scope="module")
def exported(mixture: SavedModel, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixture with a calibration that has every rule."""
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_model(calibrated(mixture), backbone, out, drawn_sample(backbone.config.preprocess))
    return out


def calibrated(model: SavedModel) -> SavedModel:
    unknown = Reliability(expected_calibration_error=0.1, negative_log_likelihood=1.0)
    calibration = Calibration(
        temperature=2.5,
        criterion="accuracy",
        fitted_on="nothing",
        num_pictures=1,
        num_rule_pictures=1,
        cross_fitted=False,
        held_apart=False,
        before=unknown,
        after=unknown,
        abstain=AbstainRule(
            target="coverage", wanted=0.5, confidence=None, minimum_probability=0.6, coverage=0.5, precision=None
        ),
        label_sets=LabelSetRule(coverage=0.9, minimum_probability=0.2, mean_size=2.0),
        multi_label=MultiLabelRule(
            target="f1", wanted=None, slope=0.7, offset=0.1, thresholds=(0.5, 0.4, 0.3, 0.6), shared_threshold=0.5
        ),
    )
    return dataclasses.replace(model, calibration=calibration)


def check_alike(model: SavedModel, backbone: Backbone, path: Path) -> None:
    """File and model say the same of pictures, in every number of them."""
    predictor, exported = Predictor(model, backbone=backbone), OnnxPredictor(path, threads=1)
    pictures = drawn(2, 5).pictures[:7]
    views = np.stack([resize_and_crop(one, backbone.config.preprocess) for one in pictures])
    with torch.no_grad():
        features = predictor.backbone.encode_pixels(torch.from_numpy(views))
        weights = predictor.classifier.expert_weights(features).numpy()
    for number in (1, 2, 7):
        said = exported.run(views[:number])
        np.testing.assert_allclose(said.features, features[:number].numpy(), atol=1e-5)
        np.testing.assert_allclose(said.expert_weights, weights[:number], atol=1e-4)
        np.testing.assert_allclose(said.probabilities.sum(axis=1), 1, atol=1e-5)
    ours = predictor.predict(pictures, top=4).predictions
    (batch,) = exported.iter_predict(pictures, top=4)
    for one, other in zip(ours, batch.predictions, strict=True):
        assert (one.class_name, one.answer, one.label_set) == (other.class_name, other.answer, other.label_set)
        assert dict(one.top) == pytest.approx(dict(other.top), abs=TOLERANCE)
        assert dict(one.experts) == pytest.approx(dict(other.experts), abs=1e-3)
        assert (one.labels is None) == (other.labels is None)
        assert dict(one.labels or ()) == pytest.approx(dict(other.labels or ()), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method(method: str, backbone: Backbone, tmp_path: Path) -> None:
    model = model_of(method, backbone)
    out = tmp_path / "model.onnx"
    report = export_model(model, backbone, out, drawn_sample(backbone.config.preprocess))
    assert report.files == (out,)
    assert report.agreement.max_difference <= TOLERANCE
    assert report.agreement.same_class == 1
    check_alike(model, backbone, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def openai_resnet(folder: Path) -> str:
    write_openai_archive(folder / "resnet.pt", torchscript=False, resnet=True, half=False)
    return str(folder / "resnet.pt")


def written_clip(activation: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        write_clip(folder / "clip", activation)
        return str(folder / "clip")

    return write


def written_siglip(folder: Path) -> str:
    write_siglip(folder / "siglip")
    return str(folder / "siglip")


TOWERS: dict[str, Callable[[Path], str]] = {
    "bundled": lambda folder: "bundled",
    "resnet": openai_resnet,
    "quick_gelu": written_clip("quick_gelu"),
    "gelu": written_clip("gelu"),
    "siglip": written_siglip,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOWERS)
def test_every_kind_of_image_tower(kind: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    backbone = load_backbone(TOWERS[kind](tmp_path / "files"), device="cpu")
    model, out = model_of("zero-shot", backbone), tmp_path / "model.onnx"
    export_model(model, backbone, out, drawn_sample(backbone.config.preprocess))
    check_alike(model, backbone, out)


def test_the_calibration_goes_along(mixture: SavedModel, backbone: Backbone, exported: Path) -> None:
    check_alike(calibrated(mixture), backbone, exported)
    predictor = OnnxPredictor(exported)
    assert predictor.facts.calibration == public_model(calibrated(mixture)).calibration
    said = predictor.run(drawn_sample(backbone.config.preprocess).pixels)
    by_hand = torch.from_numpy(said.logits).div(2.5).softmax(dim=1).numpy()
    np.testing.assert_allclose(said.probabilities, by_hand, atol=1e-6)


def test_the_file_says_what_it_is(mixture: SavedModel, backbone: Backbone, exported: Path) -> None:
    facts = OnnxPredictor(exported).facts
    assert facts.class_names == NAMES
    assert facts.expert_names == mixture.expert_names
    assert facts.preprocess == backbone.config.preprocess
    assert facts.backbone_fingerprint == backbone.fingerprint
    assert facts.training == public_model(mixture).training
    assert facts.backbone_name == Path(backbone.name).name
    for place in (Path(backbone.name), Path(export.__file__), Path(torch.__file__)):
        assert str(place.parent).encode() not in exported.read_bytes(), "no path of this machine goes along"
    assert b"stack_trace" not in exported.read_bytes()
    assert 0 <= facts.difference <= TOLERANCE
    graph = onnx.load(exported)
    onnx.checker.check_model(graph)
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", facts.opset)]
    assert [one.name for one in graph.graph.input] == ["pixels"]


def test_other_class_features_can_be_put_in(mixture: SavedModel, backbone: Backbone, exported: Path, tmp_path: Path) -> None:
    """Two of the classes in another order, by the name of their tensor, and the names with them."""
    assert mixture.classifier is not None
    graph, kept = onnx.load(exported), [2, 0]
    (place,) = [number for number, one in enumerate(graph.graph.initializer) if one.name == "class_features"]
    stored = onnx.numpy_helper.to_array(graph.graph.initializer[place])
    np.testing.assert_array_equal(stored, mixture.classifier.class_features.numpy())
    graph.graph.initializer[place].CopyFrom(onnx.numpy_helper.from_array(stored[:, kept].copy(), "class_features"))
    facts = facts_of(exported, {one.key: one.value for one in graph.metadata_props})
    fewer = facts.model_copy(update={"class_names": tuple(NAMES[number] for number in kept), "calibration": None})
    onnx.helper.set_model_props(graph, metadata_of(fewer))
    out = tmp_path / "fewer.onnx"
    onnx.save_model(graph, out)
    pixels = drawn_sample(backbone.config.preprocess).pixels
    np.testing.assert_allclose(
        OnnxPredictor(out).run(pixels).logits, OnnxPredictor(exported).run(pixels).logits[:, kept], atol=1e-4
    )


@pytest.mark.usefixtures("made_once")
def test_products_of_eight_bits_say_nearly_the_same(
    mixture: SavedModel, backbone: Backbone, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    report = export_model(
        mixture, backbone, out, sample_of(drawn(4, 7).pictures, backbone.config.preprocess, "drawn"), quantize=True
    )
    assert report.quantized is not None
    assert report.checked_on == "16 of the 16 pictures of drawn"
    assert report.quantized.same_class >= 0.8
    assert 0 < report.quantized.mean_difference < 0.1
    assert report.size < 0.9 * exported.stat().st_size  # the embedding of patches is a convolution
    predictor = OnnxPredictor(out)
    assert predictor.facts.quantized
    assert predictor.facts.difference == report.quantized.mean_difference
    pixels = drawn_sample(backbone.config.preprocess).pixels[-20:]  # drawings and noise
    together = predictor.run(pixels)
    for place in (0, 7, 19):
        np.testing.assert_array_equal(together.probabilities[[place]], predictor.run(pixels[[place]]).probabilities)
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert "MatMulInteger" in kinds
    # What follows the image feature is as it was.
    assert len([node for node in onnx.load(out).graph.node if node.op_type == "MatMulInteger"]) == 9


@pytest.mark.usefixtures("made_once")
def test_a_graph_that_differs_is_not_written(
    mixture: SavedModel, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = export._by_torch, tmp_path / "model.onnx"
    small = Sample(pixels=drawn_sample(backbone.config.preprocess).pixels[:4], description="4 pictures")
    for shift in (2e-4, float("nan")):
        monkeypatch.setattr(export, "_by_torch", lambda *given, shift=shift: real(*given) + shift)
        with pytest.raises(
            CheckpointError, match=r"differ from torch's by up to .* on 4 pictures, more than 0\.0001; nothing was"
        ):
            export_model(mixture, backbone, out, small)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_once")
def test_large_models_have_their_tensors_in_a_second_file(
    mixture: SavedModel, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_LARGEST_FILE", 1000)
    out, sample = tmp_path / "large.onnx", drawn_sample(backbone.config.preprocess)
    report = export_model(mixture, backbone, out, sample)
    assert report.files == (out, tmp_path / "large.onnx.data")
    assert out.stat().st_size < report.size / 2
    check_alike(mixture, backbone, out)
    with pytest.raises(DataError, match="is there already"):
        export_model(mixture, backbone, out, sample)
    monkeypatch.undo()
    assert export_model(mixture, backbone, out, sample, overwrite=True).files == (out,)
    assert [path.name for path in tmp_path.iterdir()] == ["large.onnx"]
    check_alike(mixture, backbone, out)


def test_large_models_with_products_of_eight_bits(
    mixture: SavedModel, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_LARGEST_FILE", 1000)
    out, sample = tmp_path / "large[1].onnx", drawn_sample(backbone.config.preprocess)
    report = export_model(mixture, backbone, out, sample, quantize=True)
    assert report.files == (out, tmp_path / "large[1].onnx.data")
    assert sorted(tmp_path.iterdir()) == sorted(report.files)
    assert OnnxPredictor(out).run(sample.pixels[:2]).logits.shape == (2, 4)


def test_what_cannot_be_exported_is_refused(mixture: SavedModel, backbone: Backbone, tmp_path: Path) -> None:
    sample = drawn_sample(backbone.config.preprocess)
    dependent = dataclasses.replace(mixture, method="cocoop", classifier=None)
    with pytest.raises(
        ConfigError, match="of method cocoop cannot be exported: it makes its class features anew for each picture"
    ):
        export_model(dependent, backbone, tmp_path / "model.onnx", sample)
    with pytest.raises(ConfigError, match=r"does not end in \.onnx; write --out model\.bin\.onnx"):
        export_model(mixture, backbone, tmp_path / "model.bin", sample)
    (tmp_path / "model.onnx").write_text("a person's")
    with pytest.raises(DataError, match=r"model\.onnx is there already; choose another file, or pass --overwrite"):
        export_model(mixture, backbone, tmp_path / "model.onnx", sample)
    with pytest.raises(DataError, match="no pictures to check"):
        sample_of([], backbone.config.preprocess, "nothing")


def changed(exported: Path, out: Path, change: Callable[[ExportedFacts], dict[str, object]], checksum: bool = True) -> Path:
    """A copy with other facts; with their checksum, or with the old one."""
    graph = onnx.load(exported)
    props = {one.key: one.value for one in graph.metadata_props}
    facts = facts_of(exported, props)
    new = metadata_of(facts.model_copy(update=change(facts)))
    onnx.helper.set_model_props(graph, new if checksum else {**props, "promptmix.facts": new["promptmix.facts"]})
    onnx.save_model(graph, out)
    return out


def test_changed_files_are_refused(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "changed.onnx"
    renamed = {"class_names": ("anchor", "cat", "snowflake", "dog")}
    with pytest.raises(CheckpointError, match="was changed: the checksum of its metadata does not fit"):
        OnnxPredictor(changed(exported, out, lambda facts: renamed, checksum=False))
    fewer = {"class_names": NAMES[:3], "calibration": None}
    shown = changed(exported, out, lambda facts: fewer)
    with pytest.raises(CheckpointError, match=r"output logits is .* but the metadata has 3 columns"):
        list(OnnxPredictor(shown).iter_predict(drawn(1, 3).pictures))
    with pytest.raises(CheckpointError, match="there are 3 classes but 4 thresholds"):
        OnnxPredictor(changed(exported, out, lambda facts: {"class_names": NAMES[:3]}))
    smaller = {"resize": 32, "crop": 32}
    with pytest.raises(CheckpointError, match="input is not pixels of 32 x 32"):
        OnnxPredictor(changed(exported, out, lambda facts: {"preprocess": facts.preprocess.model_copy(update=smaller)}))
    graph = onnx.load(exported)
    del graph.metadata_props[:]
    onnx.save_model(graph, out)
    with pytest.raises(CheckpointError, match=r"is no model of promptmix: its metadata has no promptmix\.facts"):
        OnnxPredictor(out)
    out.write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be loaded by onnxruntime"):
        OnnxPredictor(out)
    graph = onnx.load(exported)
    (place,) = [number for number, node in enumerate(graph.graph.node) if "logits" in node.output]
    # A graph that can be loaded, and whose shapes fit together for no picture.
    graph.graph.node[place].output[:] = ["logits_before"]
    for node in graph.graph.node:
        node.input[:] = ["logits_before" if name == "logits" else name for name in node.input]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 5, 7]), "no_shape"))
    graph.graph.node.append(onnx.helper.make_node("Reshape", ["logits_before", "no_shape"], ["logits_reshaped"]))
    graph.graph.node.append(onnx.helper.make_node("ReduceSum", ["logits_reshaped"], ["logits"], keepdims=0))
    onnx.save_model(graph, out)
    with pytest.raises(CheckpointError, match="cannot be run by onnxruntime"):
        list(OnnxPredictor(out).iter_predict(drawn(1, 3).pictures))
    with pytest.raises(CheckpointError, match="does not exist; give a file that promptmix export has written"):
        OnnxPredictor(tmp_path / "missing.onnx")


def test_pictures_that_cannot_be_read(exported: Path, tmp_path: Path) -> None:
    predictor = OnnxPredictor(exported)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    pictures = [*drawn(10, 3).pictures, broken]
    batches = list(predictor.iter_predict(pictures, skip_bad=True))
    assert [len(batch.kept) for batch in batches] == [32, 8]
    assert batches[1].kept == tuple(range(32, 40))
    assert batches[1].done == 41
    assert [name for name, _ in batches[1].bad] == [str(broken)]
    with pytest.raises(UnreadablePictureError, match=r"broken\.png"):
        list(predictor.iter_predict(pictures))
    with pytest.raises(DataError, match="none of the 1 pictures can be read"):
        list(predictor.iter_predict([broken], skip_bad=True))
    with pytest.raises(DataError, match="no pictures"):
        list(predictor.iter_predict([]))
