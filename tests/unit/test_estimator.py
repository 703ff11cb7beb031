"""PromptClassifier: scikit-learn's habits, folders and lists, saving, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from promptmix import CheckpointError, ConfigError, DataError, NotFittedError, PromptClassifier
from promptmix.backbones.registry import bundled_folder
from promptmix.data.pictograms import draw_set

NAMES = ("anchor", "cat", "skull")


def quick(method: str = "mocoop", **more: Any) -> PromptClassifier:
    recipe = {"epochs": 2, "batch_size": 8} if method in ("mocoop", "coop") else None
    return PromptClassifier(method, recipe=recipe, device="cpu", **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, one in enumerate(draw_set(NAMES, ("photo", "stamp"), 3, 1)):
        (root / one.class_name).mkdir(exist_ok=True)
        one.image.save(root / one.class_name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def lists(folder: Path) -> tuple[list[Path], list[str]]:
    paths = sorted(folder.glob("*/*.png"))
    return paths, [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(folder: Path) -> PromptClassifier:
    return quick().fit(folder)


def test_scikit_learn_can_clone_and_set_it() -> None:
    classifier = PromptClassifier("coop", options={"context_tokens": 3}, seed=5)
    twin = clone(classifier)
    assert twin.get_params() == classifier.get_params()
    assert twin.set_params(seed=6, method="zero-shot").seed == 6
    with pytest.raises(ValueError, match="Invalid parameter"):
        twin.set_params(sed=6)


def test_folder_paths_pictures_and_arrays_are_the_same(fitted: PromptClassifier, lists: tuple[list[Path], list[str]]) -> None:
    paths, names = lists
    pictures = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    expected = fitted.predict_proba(paths)
    for given in (pictures, arrays):
        other = quick().fit(given, names)
        assert list(other.classes_) == list(NAMES)
        np.testing.assert_allclose(other.predict_proba(given), expected, atol=1e-5)


def test_it_predicts_as_scikit_learn_does(fitted: PromptClassifier, lists: tuple[list[Path], list[str]], folder: Path) -> None:
    paths, names = lists
    probabilities = fitted.predict_proba(paths)
    assert probabilities.shape == (18, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    said = fitted.predict(paths)
    assert list(said) == [NAMES[place] for place in probabilities.argmax(axis=1)]
    assert fitted.score(paths, names) == pytest.approx(np.mean(said == np.array(names)))
    assert list(fitted.predict(folder / "cat")) == list(said[[name == "cat" for name in names]])
    assert fitted.result_.zero_shot["num_pictures"] == 18


def test_cross_validation_works(lists: tuple[list[Path], list[str]]) -> None:
    paths, names = lists
    scores = cross_val_score(quick("linear-probe"), [str(path) for path in paths], names, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.5


def test_fitting_again_starts_again(lists: tuple[list[Path], list[str]]) -> None:
    paths, names = lists
    classifier = quick().fit(paths, names)
    once = classifier.predict_proba(paths)
    np.testing.assert_array_equal(classifier.fit(paths, names).predict_proba(paths), once)


def test_classes_come_and_go(folder: Path, lists: tuple[list[Path], list[str]]) -> None:
    classifier = quick().fit(folder)
    before = classifier.predict_proba(lists[0])
    classifier.add_classes(["heart"])
    assert list(classifier.classes_) == [*NAMES, "heart"]
    heart = [one.image for one in draw_set(("heart",), ("photo",), 4, 3)]
    assert list(classifier.predict(heart)).count("heart") >= 3
    classifier.remove_classes(["heart"])
    np.testing.assert_allclose(classifier.predict_proba(lists[0]), before, atol=1e-6)
    with pytest.raises(ConfigError, match="no class"):
        classifier.remove_classes(["dragon"])


def test_saved_and_read_it_says_the_same(fitted: PromptClassifier, lists: tuple[list[Path], list[str]], tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="overwrite"):
        fitted.save_pretrained(tmp_path / "model")
    again = PromptClassifier.from_pretrained(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(again.predict_proba(lists[0]), fitted.predict_proba(lists[0]))

    moved = tmp_path / "a backbone elsewhere"
    shutil.copytree(bundled_folder(), moved)
    elsewhere = PromptClassifier.from_pretrained(tmp_path / "model", backbone=str(moved), device="cpu")
    np.testing.assert_array_equal(elsewhere.predict_proba(lists[0]), fitted.predict_proba(lists[0]))
    assert list(elsewhere.add_classes(["heart"]).classes_)[-1] == "heart"


def test_another_backbone_is_refused(fitted: PromptClassifier, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    fitted.save_pretrained(tmp_path / "model")
    other = tmp_path / "other"
    shutil.copytree(bundled_folder(), other)
    tensors = load_file(other / "model.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"] + 1
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="was trained on backbone"):
        PromptClassifier.from_pretrained(tmp_path / "model", backbone=str(other), device="cpu")


def test_before_fit_there_is_nothing_to_say() -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        quick().predict(["a.png"])
    with pytest.raises(NotFittedError, match="not fitted"):
        quick().save_pretrained("nowhere")


@pytest.mark.parametrize(
    ("given", "labels", "words"),
    [
        ("FOLDER", ["cat"], "names its own classes"),
        (["a.png", "b.png"], None, "needs y"),
        (["a.png", "b.png"], ["cat"], "2 pictures but 1 label"),
        ([], [], "no picture"),
        ({"a": 1}, ["cat"], "not as dict"),
        (["a.png"], "cat", "needs y"),
        (torch.zeros(2, 3, 8, 8), ["cat", "dog"], "torch tensor"),
        (Image.new("RGB", (8, 8)), ["cat"], "one picture"),
        (["a.png", "b.png"], [0, 1], "names"),
        (["a.png", "b.png"], ["cat", "cat"], "at least two"),
        (["no-such.png", "b.png"], ["cat", "dog"], "no-such.png"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_clear_error(given: Any, labels: Any, words: str, folder: Path) -> None:
    with pytest.raises((DataError, ConfigError)) as caught:
        quick("zero-shot").fit(folder if isinstance(given, str) else given, labels)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_picture_is_not_a_list_of_pictures(fitted: PromptClassifier) -> None:
    with pytest.raises(DataError, match="one picture"):
        fitted.predict(Image.new("RGB", (8, 8)))
    with pytest.raises(DataError, match="no picture"):
        fitted.predict([])
