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
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import check_is_fitted

from promptmix import BackboneError, CheckpointError, ConfigError, DataError, NotFittedError, PromptClassifier
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


def test_paths_pictures_and_arrays_are_the_same(lists: tuple[list[Path], list[str]]) -> None:
    paths, names = lists
    pictures = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    # Random views go by a picture's content, and a file's is not that of its pixels.
    expected = quick(augmentation={"views": 0}).fit(paths, names).predict_proba(paths)
    for given in (pictures, arrays):
        other = quick(augmentation={"views": 0}).fit(given, names)
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


def spelt(names: list[str]) -> list[str]:
    """As folders are often called: with "_" where a prompt has a space."""
    return [f"{name}_sign" for name in names]


def test_names_stay_as_they_are_given(lists: tuple[list[Path], list[str]], tmp_path: Path) -> None:
    paths, names = lists[0], spelt(lists[1])
    classifier = quick("linear-probe").fit(paths, names)
    assert list(classifier.classes_) == spelt(list(NAMES))
    right = float(np.mean(classifier.predict(paths) == np.array(names)))
    assert right > 0.9
    assert classifier.score(paths, names) == right
    classifier.save_pretrained(tmp_path / "model")
    again = PromptClassifier.from_pretrained(tmp_path / "model", device="cpu")
    assert list(again.predict(paths)) == list(classifier.predict(paths))


def test_a_name_with_an_underscore_reads_as_one_with_a_space(lists: tuple[list[Path], list[str]]) -> None:
    paths, names = lists
    first = quick().fit(paths, spelt(names))
    second = quick().fit(paths, [name.replace("_", " ") for name in spelt(names)])
    np.testing.assert_array_equal(first.predict_proba(paths), second.predict_proba(paths))
    assert list(first.add_classes(["red_fox"]).classes_) == [*spelt(list(NAMES)), "red_fox"]
    assert list(first.remove_classes(["Red Fox", "cat sign"]).classes_) == ["anchor_sign", "skull_sign"]
    with pytest.raises(DataError, match="same name"):
        quick("zero-shot").fit(paths[:2], ["red_fox", "red fox"])


def test_score_reads_a_folder_and_does_not_mind_spelling(
    fitted: PromptClassifier, lists: tuple[list[Path], list[str]], folder: Path, tmp_path: Path
) -> None:
    paths, names = lists
    right = fitted.score(paths, names)
    assert fitted.score(folder) == pytest.approx(right)
    assert fitted.score(paths, [f" {name.upper()}" for name in names]) == right
    weights = [1.0 if name == "cat" else 0.0 for name in names]
    cats = [path for path, name in zip(paths, names, strict=True) if name == "cat"]
    assert fitted.score(paths, names, sample_weight=weights) == pytest.approx(fitted.score(cats, ["cat"] * len(cats)))
    shutil.copytree(folder / "cat", tmp_path / "one" / "cat")
    assert fitted.score(tmp_path / "one") == pytest.approx(fitted.score(cats, ["cat"] * len(cats)))
    shutil.copytree(folder / "cat", tmp_path / "other" / "skul")
    with pytest.raises(DataError, match="did you mean 'skull'"):
        fitted.score(tmp_path / "other")
    with pytest.raises(DataError, match="names its own classes"):
        fitted.score(folder, names)


class Column:
    """As a column of a table: square brackets ask for a label, not for a place."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Any:
        return iter(self._values)

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def __getitem__(self, label: int) -> Any:
        return self._values[-1 - label]


def test_columns_of_tables_and_arrays_of_paths_are_taken_by_place(
    fitted: PromptClassifier, lists: tuple[list[Path], list[str]]
) -> None:
    paths, names = [str(path) for path in lists[0]], lists[1]
    expected = fitted.predict_proba(paths)
    for given in (Column(paths), np.array(paths), tuple(paths)):
        np.testing.assert_array_equal(fitted.predict_proba(given), expected)
    other = quick().fit(Column(paths), Column(names))
    np.testing.assert_allclose(other.predict_proba(paths), expected, atol=1e-5)
    np.testing.assert_allclose(quick().fit(paths, np.array(names)).predict_proba(paths), expected, atol=1e-5)


def test_a_loaded_classifier_is_fitted_and_knows_how_it_was_trained(
    lists: tuple[list[Path], list[str]], folder: Path, tmp_path: Path
) -> None:
    classifier = quick(seed=7, options={"top_k": 1}).fit(folder)
    classifier.save_pretrained(tmp_path / "model")
    again = PromptClassifier.from_pretrained(tmp_path / "model", device="cpu", cache=False)
    check_is_fitted(again)
    assert not hasattr(quick(), "classes_")
    assert again.get_params()["cache"] is False
    assert (again.seed, again.method) == (7, "mocoop")
    assert (again.options["top_k"], again.recipe["epochs"]) == (1, 2)
    # So training it again is the training it had, up to the rounding of features that do not come from the cache.
    repeated = clone(again).fit(folder).predict_proba(lists[0])
    np.testing.assert_allclose(repeated, classifier.predict_proba(lists[0]), atol=1e-5)
    default = PromptClassifier(device="cpu").fit(folder).predict_proba(lists[0])
    assert np.abs(default - repeated).max() > 1e-3


def test_classes_come_and_go_where_the_backbone_lies_now(
    folder: Path, lists: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    shutil.copytree(bundled_folder(), tmp_path / "first")
    classifier = quick("zero-shot", backbone=tmp_path / "first").fit(folder)
    expected = classifier.predict_proba(lists[0])
    classifier.save_pretrained(tmp_path / "model")
    (tmp_path / "first").rename(tmp_path / "second")
    with pytest.raises(BackboneError, match=r"first.*--backbone"):
        PromptClassifier.from_pretrained(tmp_path / "model", device="cpu")
    moved = PromptClassifier.from_pretrained(tmp_path / "model", backbone=tmp_path / "second", device="cpu")
    np.testing.assert_array_equal(moved.predict_proba(lists[0]), expected)
    moved.add_classes(["heart"]).remove_classes(["cat"])
    assert list(moved.classes_) == ["anchor", "skull", "heart"]
    moved.set_params(backbone="of the next fit")
    assert list(moved.remove_classes(["heart"]).classes_) == ["anchor", "skull"]


def test_one_text_is_no_list_of_classes(folder: Path) -> None:
    classifier = quick("zero-shot").fit(folder)
    with pytest.raises(DataError, match="not the text 'okapi'"):
        classifier.add_classes("okapi")
    with pytest.raises(DataError, match="not the text 'cat'"):
        classifier.remove_classes("cat")
    with pytest.raises(ConfigError, match="no class name"):
        classifier.remove_classes([])
    assert list(classifier.classes_) == list(NAMES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "mocop"}, "did you mean 'mocoop'"),
        ({"options": {"topk": 1}}, "did you mean 'top_k'"),
        ({"options": {"top_k": "2"}}, "top_k is '2'"),
        ({"recipe": {"epoch": 1}}, "did you mean 'epochs'"),
        ({"options": 3}, "options is 3"),
        ({"recipe": "fast"}, "recipe is 'fast'"),
        ({"device": "cudo"}, "did you mean 'cuda'"),
        ({"backbone": "no-such"}, "'no-such'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "1"}, "seed is '1'"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_clear_error(arguments: dict[str, Any], words: str, folder: Path) -> None:
    # Checked by fit, as scikit-learn's own are, so that clone and set_params work with anything.
    classifier = PromptClassifier("mocoop", device="cpu")
    for name, value in arguments.items():
        setattr(classifier, name, value)
    with pytest.raises((ConfigError, BackboneError)) as caught:
        classifier.fit(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_search_over_numbers_of_numpy_works(lists: tuple[list[Path], list[str]]) -> None:
    paths, names = lists
    search = GridSearchCV(quick("linear-probe"), {"seed": np.arange(2)}, cv=2, error_score="raise").fit(paths, names)
    assert search.best_estimator_.score(paths, names) > 0.5


def test_a_calibrated_classifier_says_what_it_promises(lists: tuple[list[Path], list[str]], tmp_path: Path) -> None:
    paths, names = lists
    plain = quick("tip-adapter").fit(paths, names)
    calibrated = quick("tip-adapter", abstain="coverage=0.7", label_sets=0.7).fit(paths, names)
    rule = calibrated._fitted().model.calibration
    assert rule is not None and rule.abstain is not None and rule.label_sets is not None
    shares = calibrated.predict_proba(paths)
    logits = plain._fitted().logits(paths).double()
    assert shares == pytest.approx((logits / rule.temperature).softmax(dim=1).numpy())
    assert plain.predict_proba(paths) == pytest.approx(logits.softmax(dim=1).numpy(), abs=0)
    answered = shares.max(axis=1) >= rule.abstain.minimum_probability
    said = calibrated.predict(paths)
    assert ((said == "none of these") == ~answered).all()
    assert (said[answered] == plain.predict(paths)[answered]).all()
    assert calibrated.score(paths, names) == plain.score(paths, names)
    sets = calibrated.predict_sets(paths)
    assert all(len(one) >= 1 and set(one) <= set(NAMES) for one in sets)
    assert all(NAMES[row.argmax()] in one for row, one in zip(shares, sets, strict=True))
    assert sum(name in one for name, one in zip(names, calibrated.predict_labels(paths), strict=True)) > len(paths) / 2
    calibrated.save_pretrained(tmp_path / "model")
    again = PromptClassifier.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(again.predict_proba(paths), shares)
    assert again.predict_sets(paths) == sets
    again.add_classes(["heart"])
    with pytest.raises(ConfigError, match="the model has no label sets"):
        again.predict_sets(paths)
    assert "none of these" not in again.predict(paths)


def test_what_a_classifier_without_a_calibration_cannot_say(
    fitted: PromptClassifier, lists: tuple[list[Path], list[str]]
) -> None:
    paths, names = lists
    with pytest.raises(ConfigError, match="the model has no label sets; fit with label_sets"):
        fitted.predict_sets(paths)
    with pytest.raises(ConfigError, match="no thresholds for several labels; fit with calibrate=True"):
        fitted.predict_labels(paths)
    with pytest.raises(ConfigError, match="--abstain 'often' is no target"):
        quick(abstain="often").fit(paths, names)
    with pytest.raises(DataError, match="one training picture a class"):
        quick(calibrate=True).fit(paths[::6], names[::6])
