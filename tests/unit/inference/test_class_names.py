"""How the names of classes fare where classes come and go: those that were there stay as a person wrote them."""

from __future__ import annotations

import pytest

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError, DataError
from promptmix.inference.predictor import add_classes, remove_classes
from promptmix.methods.registry import build_method
from promptmix.model_folder import SavedModel

NAMES = ("red_fox", "Cat", "skull")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.fixture(scope="module")
def model(backbone: Backbone) -> SavedModel:
    made = build_method("zero-shot", {}, backbone, NAMES)
    return SavedModel(
        method=made.name,
        options=made.saved_options(),
        class_names=NAMES,
        trained_class_names=NAMES,
        more_class_names=(),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=made.expert_names,
        classifier=made.classifier(),
        learnt=made.learnt_state(),
        training={},
    )


def test_names_that_were_there_stay_as_they_are(model: SavedModel, backbone: Backbone) -> None:
    assert add_classes(model, ["polar_bear"], backbone).class_names == (*NAMES, "polar bear")


@pytest.mark.parametrize("name", ["red_fox", "red fox", "RED FOX", " Red  fox"])
def test_a_name_means_its_class_however_it_is_written(name: str, model: SavedModel, backbone: Backbone) -> None:
    assert remove_classes(model, [name]).class_names == ("Cat", "skull")
    with pytest.raises(DataError, match="same name"):
        add_classes(model, [name], backbone)


@pytest.mark.parametrize("name", ["red_fox", "red fox", "RED FOX"])
def test_a_class_comes_back_under_the_name_it_had(name: str, model: SavedModel, backbone: Backbone) -> None:
    assert add_classes(remove_classes(model, ["red_fox"]), [name], backbone).class_names == ("Cat", "skull", "red_fox")


def test_one_text_or_nothing_is_no_list_of_names(model: SavedModel, backbone: Backbone) -> None:
    with pytest.raises(DataError, match="not the text 'okapi'"):
        add_classes(model, "okapi", backbone)
    with pytest.raises(DataError, match="not the text 'skull'"):
        remove_classes(model, "skull")
    with pytest.raises(ConfigError, match="no class name"):
        add_classes(model, [], backbone)
    with pytest.raises(ConfigError, match="no class name"):
        remove_classes(model, [])
