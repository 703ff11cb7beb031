"""Classes with synonyms and descriptions, and classes that get another name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.nn.test_calibration import abstain, calibration

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.class_words import ClassWords
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import ConfigError, DataError
from promptmix.features.cache import FeatureCache
from promptmix.inference.open_classes import add_worded_classes, rename_class
from promptmix.inference.predictor import Predictor, add_classes, remove_classes
from promptmix.model_folder import SavedModel, read_model, write_classes
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

NAMES = ("anchor", "cat", "snowflake", "umbrella")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


@pytest.fixture(scope="module")
def folders(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    drawn = draw_set(NAMES, ("stamp",), 3, 1)
    labels = [NAMES.index(one.class_name) for one in drawn]
    labelled = LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=NAMES, description="drawn")
    cache = FeatureCache(root / "features")
    for method in ("mocoop", "promptmix", "linear-probe"):
        recipe = {} if method == "linear-probe" else {"epochs": 2, "batch_size": 8}
        run(
            RunConfig.model_validate({"method": method, "recipe": recipe}),
            labelled,
            backbone=backbone,
            cache=cache,
            out=root / method,
        )
    return {method: root / method / "model" for method in ("mocoop", "promptmix", "linear-probe")}


@pytest.fixture
def model(folders: dict[str, Path]) -> SavedModel:
    return read_model(folders["mocoop"])


def features(model: SavedModel) -> torch.Tensor:
    assert model.classifier is not None
    return model.classifier.class_features


def test_a_class_with_synonyms_has_the_mean_of_their_features(model: SavedModel, backbone: Backbone) -> None:
    apart = add_classes(model, ["scissors", "shears", "heart"], backbone)
    together = add_worded_classes(model, [ClassWords(name="scissors", synonyms=("shears",)), ClassWords(name="heart")], backbone)
    assert together.class_names == (*NAMES, "scissors", "heart")
    for expert in range(features(apart).shape[0]):
        mean = (features(apart)[expert, 4] + features(apart)[expert, 5]) / 2
        assert torch.allclose(features(together)[expert, 4], mean / mean.norm(), atol=1e-6)
    assert torch.allclose(features(together)[:, 5], features(apart)[:, 6], atol=1e-6)
    assert torch.equal(features(together)[:, :4], features(model))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"synonyms": (" ",)}, "a synonym of class 'scissors' is empty"),
        ({"synonyms": ("shears", "a\x01b")}, "a synonym of class 'scissors' holds a control character"),
        ({"synonyms": ("shears", "Shears")}, "are the same name"),
        ({"synonyms": ("Scissors",)}, "are the same name"),
        ({"description": " \n "}, "the description of class 'scissors' is empty"),
        ({"description": "\x1b[31mred"}, "the description of class 'scissors' holds a control character"),
    ],
)
def test_words_that_say_nothing_are_refused(model: SavedModel, backbone: Backbone, more: dict[str, Any], words: str) -> None:
    new = ClassWords(name="scissors", **more)
    with pytest.raises(DataError, match=words):
        add_worded_classes(model, [new], backbone)
    with pytest.raises(DataError, match=words):
        rename_class(model, "cat", new, backbone)


def test_words_are_kept_with_single_white_space(model: SavedModel, backbone: Backbone) -> None:
    new = ClassWords(name="scissors", synonyms=(" garden  shears",), description="a tool\nthat cuts ")
    added = add_worded_classes(model, [new], backbone)
    assert added.class_words["scissors"] == ClassWords(
        name="scissors", synonyms=("garden shears",), description="a tool that cuts"
    )


def test_a_description_stands_after_the_name(model: SavedModel, backbone: Backbone) -> None:
    described = add_worded_classes(model, [ClassWords(name="scissors", description="a tool")], backbone)
    spelt_out = add_classes(model, ["scissors, a tool"], backbone)
    assert described.class_names[-1] == "scissors"
    assert torch.allclose(features(described), features(spelt_out), atol=1e-6)


def test_words_are_saved_and_go_with_their_class(
    folders: dict[str, Path], model: SavedModel, backbone: Backbone, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(folders["mocoop"], tmp_path / "model"))
    words = ClassWords(name="scissors", synonyms=("shears",), description="a tool")
    write_classes(folder, add_worded_classes(model, [words], backbone))
    again = read_model(folder)
    assert again.class_words == {"scissors": words}
    assert add_classes(again, ["heart"], backbone).class_words == {"scissors": words}
    assert rename_class(again, "scissors", ClassWords(name="heart"), backbone).class_words == {}
    without = remove_classes(again, ["scissors"])
    assert without.class_words == {}
    assert add_worded_classes(without, [ClassWords(name="scissors")], backbone).class_words == {}


def test_a_renamed_class_is_in_its_place_with_the_features_of_its_new_name(model: SavedModel, backbone: Backbone) -> None:
    renamed = rename_class(model, "Cat", ClassWords(name="house cat"), backbone)
    assert renamed.class_names == ("anchor", "house cat", "snowflake", "umbrella")
    added = add_classes(model, ["house cat"], backbone)
    assert torch.allclose(features(renamed)[:, 1], features(added)[:, 4], atol=1e-6)
    assert torch.equal(features(renamed)[:, [0, 2, 3]], features(model)[:, [0, 2, 3]])
    back = rename_class(renamed, "house_cat", ClassWords(name="cat"), backbone)
    assert back.class_names == NAMES
    assert torch.allclose(features(back), features(model), atol=1e-5)


def test_the_votes_of_its_pictures_stay_with_a_renamed_class(folders: dict[str, Path], backbone: Backbone) -> None:
    model = read_model(folders["promptmix"])
    renamed = rename_class(model, "cat", ClassWords(name="heart"), backbone)
    assert model.classifier is not None and renamed.classifier is not None
    before, after = model.classifier.memory, renamed.classifier.memory
    assert before is not None and after is not None
    assert torch.equal(before.labels, after.labels)
    assert torch.equal(before.keys, after.keys)


def test_a_class_that_is_known_by_pictures_alone_changes_only_its_name(folders: dict[str, Path], backbone: Backbone) -> None:
    model = read_model(folders["linear-probe"])
    renamed = rename_class(model, "cat", ClassWords(name="house cat"))
    assert renamed.class_names == ("anchor", "house cat", "snowflake", "umbrella")
    pictures = [one.image for one in draw_set(NAMES, ("stamp",), 1, 3)]
    logits = [Predictor(one, backbone=backbone).logits(pictures) for one in (model, renamed)]
    assert torch.equal(logits[0], logits[1])
    with pytest.raises(ConfigError, match="pictures alone"):
        rename_class(model, "cat", ClassWords(name="cat", synonyms=("kitten",)))


def test_no_class_gets_the_name_of_no_answer(folders: dict[str, Path]) -> None:
    linear = read_model(folders["linear-probe"])
    for rules in ({"abstain": abstain(0.6)}, {}):
        calibrated = dataclasses.replace(linear, calibration=calibration(**rules))
        if rules:
            with pytest.raises(DataError, match="'none of these' is what the model says where it does not answer"):
                rename_class(calibrated, "cat", ClassWords(name="None_of these"))
        else:
            assert "None of these" in rename_class(calibrated, "cat", ClassWords(name="None_of these")).class_names


def test_rules_that_go_with_the_classes_are_told_of(
    model: SavedModel, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    calibrated = dataclasses.replace(model, calibration=calibration(abstain=abstain(0.6)))
    changes: list[Callable[[SavedModel], SavedModel]] = [
        lambda before: add_classes(before, ["scissors"], backbone),
        lambda before: remove_classes(before, ["cat"]),
        lambda before: rename_class(before, "cat", ClassWords(name="house cat"), backbone),
    ]
    for change in changes:
        caplog.clear()
        changed = change(calibrated)
        assert "'none of these' held for the classes as they were, and are gone" in caplog.text
        assert changed.calibration is not None and changed.calibration.classes_changed
        caplog.clear()
        change(model)
        assert not caplog.text


def test_what_cannot_be_renamed(model: SavedModel, backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="no class 'cta'; did you mean 'cat'"):
        rename_class(model, "cta", ClassWords(name="heart"), backbone)
    with pytest.raises(DataError, match="a class 'Umbrella' already"):
        rename_class(model, "cat", ClassWords(name="Umbrella"), backbone)
    with pytest.raises(DataError, match="empty"):
        rename_class(model, "cat", ClassWords(name="_"), backbone)
    with pytest.raises(ConfigError, match="give the backbone"):
        rename_class(model, "cat", ClassWords(name="heart"))
