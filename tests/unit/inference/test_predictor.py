"""Prediction from a saved model, and classes that come and go, for a method of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from promptmix.backbones import registry
from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.images import PictureSource
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import BackboneError, CheckpointError, ConfigError, DataError
from promptmix.features.cache import FeatureCache
from promptmix.inference.predictor import Predictor, add_classes, backbone_of, remove_classes
from promptmix.methods.registry import build_method
from promptmix.model_folder import SavedModel, read_model, write_classes, write_model
from promptmix.training.fit import RunConfig
from promptmix.training.run import Outcome, run

NAMES = ("anchor", "cat", "snowflake", "umbrella")
OPEN = ("mocoop", "coop", "zero-shot")  # methods that know a class by its name alone
REMEMBERING = ("tip-adapter", "tip-adapter-f", "promptmix")  # methods whose training pictures vote


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


def drawn(per_class: int, seed: int) -> LabelledPictures:
    pictures = draw_set(NAMES, ("stamp",), per_class, seed)
    labels = [NAMES.index(one.class_name) for one in pictures]
    return LabelledPictures(pictures=[one.image for one in pictures], labels=labels, class_names=NAMES, description="drawn")


@pytest.fixture(scope="module")
def trained(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Path]]:
    """By method the outcome of a short run, and its folder."""
    root = tmp_path_factory.mktemp("runs")
    cache = FeatureCache(root / "features")
    found: dict[str, tuple[Outcome, Path]] = {}
    for method in (*OPEN, *REMEMBERING, "linear-probe"):
        recipe = {} if method in ("zero-shot", "tip-adapter", "linear-probe") else {"epochs": 2, "batch_size": 8}
        config = RunConfig.model_validate({"method": method, "recipe": recipe})
        found[method] = run(config, drawn(3, 1), backbone=backbone, cache=cache, out=root / method), root / method
    return found


def test_predictions_say_what_the_logits_say(trained: dict[str, tuple[Outcome, Path]]) -> None:
    predictor = Predictor.from_folder(trained["mocoop"][1], device="cpu")
    assert predictor.backbone.text is None  # class features are saved
    pictures = drawn(2, 2).pictures
    logits = predictor.logits(pictures)
    assert logits.shape == (len(pictures), len(NAMES))
    said = predictor.predict(pictures, top=2)
    assert said.kept == tuple(range(len(pictures)))
    assert said.bad == ()
    probabilities = logits.double().softmax(dim=1)
    for row, one in zip(probabilities, said.predictions, strict=True):
        ranked = row.sort(descending=True)
        assert one.class_name == NAMES[int(ranked.indices[0])]
        assert one.probability == pytest.approx(float(ranked.values[0]), abs=1e-6)
        assert one.margin == pytest.approx(float(ranked.values[0] - ranked.values[1]), abs=1e-6)
        assert [name for name, _ in one.top] == [NAMES[place] for place in ranked.indices[:2]]
        assert sum(weight for _, weight in one.experts) == pytest.approx(1, abs=1e-5)
        assert len(one.experts) == 2


def test_one_picture_alone_is_said_to_be_what_it_is_among_others(trained: dict[str, tuple[Outcome, Path]]) -> None:
    predictor = Predictor.from_folder(trained["mocoop"][1], device="cpu")
    pictures = drawn(2, 2).pictures
    together = predictor.logits(pictures)
    alone = torch.cat([predictor.logits([picture]) for picture in pictures])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    turned = predictor.logits(pictures[::-1])
    torch.testing.assert_close(turned.flip(0), together, rtol=1e-4, atol=1e-4)


def test_a_picture_that_cannot_be_read_is_left_out_or_stops(trained: dict[str, tuple[Outcome, Path]], tmp_path: Path) -> None:
    predictor = Predictor.from_folder(trained["zero-shot"][1], device="cpu")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    first, second = drawn(1, 2).pictures[:2]
    said = predictor.predict([first, broken, second], skip_bad=True)
    assert said.kept == (0, 2)
    assert [name for name, _ in said.bad] == [str(broken)]
    assert [one.class_name for one in said.predictions] == [
        predictor.predict([one]).predictions[0].class_name for one in (first, second)
    ]
    with pytest.raises(DataError, match=r"broken\.png"):
        predictor.predict([first, broken])
    with pytest.raises(DataError, match=r"broken\.png"):
        predictor.logits([first, broken])


@pytest.mark.parametrize("method", OPEN)
def test_added_classes_are_those_of_the_method_and_change_no_other(
    method: str, backbone: Backbone, trained: dict[str, tuple[Outcome, Path]]
) -> None:
    model = trained[method][0].model
    added = add_classes(model, ["heart", "skull"], backbone)
    assert added.class_names == (*NAMES, "heart", "skull")
    assert added.trained_class_names == NAMES
    before, after = model.classifier.class_features, added.classifier.class_features
    assert torch.equal(after[:, :4], before)
    made = build_method(model.method, model.options, backbone, NAMES)
    made.load_learnt_state(model.learnt)
    torch.testing.assert_close(after[:, 4:], made.encode_classes(("heart", "skull")).detach(), rtol=1e-5, atol=1e-6)
    one_by_one = add_classes(add_classes(model, ["heart"], backbone), ["skull"], backbone)
    torch.testing.assert_close(one_by_one.classifier.class_features, after, rtol=1e-5, atol=1e-6)
    assert torch.equal(remove_classes(added, ["heart", "skull"]).classifier.class_features, before)


def test_a_class_that_was_removed_comes_back_as_it_was(backbone: Backbone, trained: dict[str, tuple[Outcome, Path]]) -> None:
    model = trained["mocoop"][0].model
    back = add_classes(remove_classes(model, ["cat"]), ["cat"], backbone)
    assert back.class_names == ("anchor", "snowflake", "umbrella", "cat")
    order = [NAMES.index(name) for name in back.class_names]
    torch.testing.assert_close(back.classifier.class_features, model.classifier.class_features[:, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", REMEMBERING)
def test_a_class_that_was_removed_comes_back_with_its_remembered_pictures(
    method: str, backbone: Backbone, tmp_path: Path, trained: dict[str, tuple[Outcome, Path]]
) -> None:
    model, pictures = trained[method][0].model, drawn(2, 3).pictures
    expected = Predictor(model, backbone=backbone).logits(pictures)
    write_model(tmp_path / "model", model)
    write_classes(tmp_path / "model", remove_classes(model, ["cat", "anchor"]))
    partly = add_classes(read_model(tmp_path / "model"), ["heart", "Cat"], backbone)
    assert partly.class_names == ("snowflake", "umbrella", "heart", "cat")
    assert set(partly.classifier.memory.labels.tolist()) == {0, 1, 3}  # nothing of the new class, nor of the one still gone
    back = add_classes(partly, ["anchor"], backbone)
    memory, whole = back.classifier.memory, model.classifier.memory
    torch.testing.assert_close(memory.keys, whole.keys, rtol=0, atol=0)
    assert [back.class_names[label] for label in memory.labels] == [NAMES[label] for label in whole.labels]
    logits = Predictor(back, backbone=backbone).logits(pictures)[:, [back.class_names.index(name) for name in NAMES]]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    # It is the votes that are asked about: without those of the class the logits are others.
    lost = Predictor(remove_classes(model, ["cat"]), backbone=backbone)
    by_name = lost.classifier.with_classes(model.classifier.class_features[:, [0, 2, 3, 1]], [0, 1, 2, None])
    voteless = Predictor(dataclasses.replace(model, classifier=by_name), backbone=backbone).logits(pictures)
    assert (voteless[:, 3] - expected[:, 1]).abs().max() > 1e-2


def test_class_features_of_another_width_are_refused(backbone: Backbone, trained: dict[str, tuple[Outcome, Path]]) -> None:
    model = trained["zero-shot"][0].model
    narrow = dataclasses.replace(
        model, classifier=dataclasses.replace(model.classifier, class_features=model.classifier.class_features[..., :-1])
    )
    width = backbone.config.embedding_width
    for use in (lambda: Predictor(narrow, backbone=backbone), lambda: add_classes(narrow, ["heart"], backbone)):
        with pytest.raises(
            CheckpointError, match=rf"class_features .* width {width - 1}, but backbone 'bundled' .* width {width};"
        ):
            use()


def test_changed_classes_are_saved_and_read(backbone: Backbone, tmp_path: Path, trained: dict[str, tuple[Outcome, Path]]) -> None:
    model = trained["mocoop"][0].model
    write_model(tmp_path / "model", model)
    changed = remove_classes(add_classes(model, ["heart"], backbone), ["anchor"])
    write_classes(tmp_path / "model", changed)
    again = read_model(tmp_path / "model")
    assert again.class_names == ("cat", "snowflake", "umbrella", "heart")
    pictures = drawn(1, 3).pictures
    expected = Predictor(changed, backbone=backbone).logits(pictures)
    torch.testing.assert_close(Predictor.from_folder(tmp_path / "model", device="cpu").logits(pictures), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        ([], ConfigError, "no class name"),
        (["cat"], DataError, "same name"),
        (["Cat"], DataError, "same name"),
        (["heart", "heart"], DataError, "same name"),
        (["  "], DataError, "empty"),
        (["heart " * 60], DataError, "characters"),
        (["very " * 39 + "old"], DataError, "needs 86 tokens"),
        ("heart", DataError, "list of names"),
    ],
)
def test_names_that_cannot_be_added(
    names: list[str], kind: type[Exception], words: str, backbone: Backbone, trained: dict[str, tuple[Outcome, Path]]
) -> None:
    with pytest.raises(kind, match=words) as caught:
        add_classes(trained["mocoop"][0].model, names, backbone)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        ([], ConfigError, "no class name"),
        (["anker"], ConfigError, "did you mean 'anchor'"),
        (["anchor", "cat", "umbrella"], ConfigError, "at least two"),
        ("cat", DataError, "list of names"),
    ],
)
def test_names_that_cannot_be_removed(
    names: list[str], kind: type[Exception], words: str, trained: dict[str, tuple[Outcome, Path]]
) -> None:
    with pytest.raises(kind, match=words) as caught:
        remove_classes(trained["mocoop"][0].model, names)
    assert "\n" not in str(caught.value)


def test_a_method_with_numbers_of_its_own_for_each_class_keeps_its_classes(
    backbone: Backbone, trained: dict[str, tuple[Outcome, Path]]
) -> None:
    model = trained["linear-probe"][0].model
    with pytest.raises(ConfigError):
        add_classes(model, ["heart"], backbone)
    with pytest.raises(ConfigError, match="fixed by training"):
        remove_classes(model, ["cat"])


def test_another_backbone_is_refused(backbone: Backbone, trained: dict[str, tuple[Outcome, Path]]) -> None:
    model = trained["mocoop"][0].model
    other = dataclasses.replace(backbone, name="other", fingerprint="0123")
    with pytest.raises(CheckpointError, match=r"was trained on backbone 'bundled'.*'other' is 0123"):
        Predictor(model, backbone=other)
    with pytest.raises(CheckpointError, match="was trained on backbone"):
        add_classes(model, ["heart"], other)


def test_a_backbone_that_is_gone_is_named_with_what_to_do(trained: dict[str, tuple[Outcome, Path]]) -> None:
    model: SavedModel = dataclasses.replace(trained["mocoop"][0].model, backbone_name="no-such-folder")
    with pytest.raises(BackboneError, match=r"no-such-folder.*--backbone"):
        backbone_of(model, device="cpu")
    assert backbone_of(model, str(registry.bundled_folder()), device="cpu").fingerprint == model.backbone_fingerprint


def test_features_come_from_the_cache_where_they_are(
    trained: dict[str, tuple[Outcome, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "features")
    pictures = drawn(1, 4).pictures
    expected = Predictor.from_folder(trained["mocoop"][1], device="cpu", cache=cache).logits(pictures)

    def nothing(self: Backbone, pixels: object) -> object:
        raise AssertionError("a picture was encoded again")

    monkeypatch.setattr(Backbone, "encode_pixels", nothing)
    again = Predictor.from_folder(trained["mocoop"][1], device="cpu", cache=cache).logits(pictures)
    np.testing.assert_array_equal(again.numpy(), expected.numpy())


def test_batches_are_predicted_as_they_come(trained: dict[str, tuple[Outcome, Path]], tmp_path: Path) -> None:
    predictor = Predictor.from_folder(trained["mocoop"][1], device="cpu")
    pictures = drawn(40, 4).pictures
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    taken = 0

    def one_by_one() -> Iterator[PictureSource]:
        nonlocal taken
        for picture in (*pictures[:10], broken, *pictures[10:]):
            taken += 1
            yield picture

    said = []
    for batch in predictor.iter_predict(one_by_one(), top=2, skip_bad=True):
        assert len(batch.predictions) == len(batch.kept) == len(batch.pictures)
        assert taken <= batch.done + 64
        said.append(batch)
    assert len(said) > 1
    assert [bad for batch in said for bad in batch.bad] == [(str(broken), said[0].bad[0][1])]
    assert [place for batch in said for place in batch.kept] == [*range(10), *range(11, len(pictures) + 1)]
    whole = predictor.predict(pictures, top=2)
    names = [one.class_name for batch in said for one in batch.predictions]
    assert names == [one.class_name for one in whole.predictions]
    with pytest.raises(DataError, match=r"none of the 2 pictures can be read; the first: .*broken\.png"):
        list(predictor.iter_predict([broken, broken], skip_bad=True))
