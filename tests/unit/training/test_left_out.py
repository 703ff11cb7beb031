"""Cross-fitting: who is left out when, that no model judges a picture it learnt from, and the file of what was said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.drawn_task import block_of_classes, draw_shots, draw_tests, labelled
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.evaluation.answers import measure_answers
from promptmix.evaluation.targets import Wanted
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.labelled import logits_of_labelled
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import SavedModel
from promptmix.training import left_out
from promptmix.training.fit import RunConfig, logits_of_held_out, no_progress
from promptmix.training.left_out import LeftOut, check_can_leave_out, cross_fit, fold_of_each, read_left_out, write_left_out
from promptmix.training.run import run

CLASSES = ("anchor", "cat", "snowflake", "umbrella")
STYLES = ("neon", "cross-stitch")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"))


def pictures(per_style: int, seed: int) -> LabelledPictures:
    return labelled(draw_set(CLASSES, STYLES, per_style, seed), CLASSES, "classes")


def plain(method: str, **more: object) -> RunConfig:
    return RunConfig.model_validate({"method": method, "augmentation": {"views": 0}, **more})


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(2, 6), st.integers(0, 99))
def test_every_picture_is_left_out_once_and_folds_are_even(counts: list[int], folds: int, seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    names = [f"class {label}" for label in range(len(counts))]
    keys = [str(place) for place in range(len(labels))]
    dealt = fold_of_each(labels, names, keys, folds, seed)
    for label, count in enumerate(counts):
        own = dealt[np.array(labels) == label]
        if count == 1:
            assert own.tolist() == [-1]
            continue
        sizes = np.bincount(own, minlength=folds)
        assert sizes.max() - sizes.min() <= 1
        assert sizes.max() < count  # something is always left to learn from
    sizes = np.bincount(dealt[dealt >= 0], minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    assert (dealt == fold_of_each(labels, names, keys, folds, seed)).all()


def test_copies_are_left_out_together() -> None:
    keys = ["a", "b", "a", "c", "d", "b", "same", "same"]
    dealt = fold_of_each([0] * 6 + [1] * 2, ["cat", "owl"], keys, 3, 1)
    assert dealt[0] == dealt[2] and dealt[1] == dealt[5]
    assert dealt[6:].tolist() == [-1, -1]  # one picture, however often it is there


def test_each_model_has_learnt_from_the_others_alone(backbone: Backbone, cache: FeatureCache) -> None:
    training, config = pictures(3, 1), plain("tip-adapter", options={"alpha": 2.0, "beta": 5.0})
    outcome = run(config, training, backbone=backbone, cache=cache)
    found = cross_fit(config, training, outcome.model, backbone=backbone, cache=cache, folds=3)
    assert (found.folds, len(found.labels), found.class_names) == (3, 24, CLASSES)
    features = extract_features(backbone, training.pictures, cache=cache, steady=True).features[:, 0]
    labels = np.array(training.labels)
    dealt = fold_of_each(training.labels, CLASSES, [str(left_out.content_key(one)) for one in training.pictures], 3, config.seed)
    text = outcome.model.classifier
    assert text is not None
    row = 0
    for fold in range(3):
        for place in np.flatnonzero(dealt == fold):
            picture = features[place]
            expected = backbone.logit_scale * text.class_features[0] @ picture
            for other in np.flatnonzero(dealt != fold):
                expected[labels[other]] += 2.0 * torch.exp(5.0 * (picture @ features[other] - 1))
            assert found.logits[row] == pytest.approx(expected.numpy(), abs=1e-4)
            assert found.labels[row] == labels[place]
            row += 1


def test_a_model_is_surer_of_pictures_it_has_learnt_from(backbone: Backbone, cache: FeatureCache) -> None:
    training, config = pictures(4, 1), plain("tip-adapter-f", recipe={"epochs": 20})
    outcome = run(config, training, backbone=backbone, cache=cache)
    found = cross_fit(config, training, outcome.model, backbone=backbone, cache=cache)
    own, labels = logits_of_held_out(config, training, training, "", backbone, cache)
    honest = LeftOut(logits=own.numpy(), labels=labels.numpy(), folds=0, class_names=CLASSES)
    assert found.calibration(Wanted()).temperature > 1.3 * honest.calibration(Wanted()).temperature


def test_where_nothing_is_learnt_one_picture_a_class_will_do(backbone: Backbone) -> None:
    training, config = labelled(draw_set(CLASSES, ("neon",), 1, 1), CLASSES, "classes"), plain("zero-shot")
    outcome = run(config, training, backbone=backbone)
    found = cross_fit(config, training, outcome.model, backbone=backbone)
    assert (found.folds, len(found.labels)) == (0, 4)
    calibration = found.calibration(Wanted())
    assert not calibration.cross_fitted
    assert calibration.fitted_on == "4 training pictures, of which nothing was learnt"


def test_one_picture_a_class_is_refused_in_words(backbone: Backbone, cache: FeatureCache) -> None:
    with pytest.raises(DataError, match="one training picture a class, so that none can be left out"):
        check_can_leave_out("mocoop", [0, 1, 2])
    check_can_leave_out("mocoop", [0, 1, 1])
    once = pictures(1, 1)
    twice = LabelledPictures(
        pictures=[*once.pictures[::2], *once.pictures[::2]],
        labels=[*once.labels[::2], *once.labels[::2]],
        class_names=CLASSES,
        description="each twice",
    )
    config = plain("tip-adapter")
    outcome = run(config, twice, backbone=backbone, cache=cache)
    with pytest.raises(DataError, match="are copies of one"):
        cross_fit(config, twice, outcome.model, backbone=backbone, cache=cache)
    with pytest.raises(ConfigError, match="folds is 1"):
        cross_fit(config, twice, outcome.model, backbone=backbone, cache=cache, folds=1)


def test_options_are_those_that_the_run_has_chosen(
    backbone: Backbone, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, config = pictures(2, 1), plain("linear-probe")
    outcome = run(config, training, backbone=backbone, cache=cache)
    asked = []

    def noted(config: RunConfig, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(config)
        return torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)

    monkeypatch.setattr(left_out, "logits_of_held_out", noted)
    cross_fit(config, training, outcome.model, backbone=backbone, cache=cache, folds=2)
    assert [one.options for one in asked] == [outcome.model.options] * 2
    assert [one.recipe for one in asked] == [config.recipe] * 2


@pytest.mark.parametrize(("method", "precision"), [("zero-shot", 0.7), ("tip-adapter", 0.5), ("linear-probe", 0.8)])
def test_what_is_promised_holds_on_pictures_that_were_held_out(
    method: str, precision: float, backbone: Backbone, cache: FeatureCache
) -> None:
    """Twenty classes in styles that the backbone has not seen; 160 shots, 200 other pictures."""
    names, _ = block_of_classes(2)
    training = labelled(draw_shots(names, STYLES, 8, 1), names, "classes")
    test = labelled(draw_tests(names, STYLES, 5), names, "classes")
    config = plain(method)
    outcome = run(config, training, backbone=backbone, cache=cache)
    found = cross_fit(config, training, outcome.model, backbone=backbone, cache=cache)
    calibration = found.calibration(Wanted.parse("coverage=0.8", 0.9))
    said = logits_of_labelled(Predictor(outcome.model, backbone=backbone), test, cache, False, no_progress)
    measured = measure_answers(said.logits.numpy(), said.labels.numpy(), names, calibration)
    assert measured.set_coverage is not None and measured.answer_coverage is not None
    assert measured.answer_precision is not None and measured.set_size is not None
    # Two deviations of a share of 0.9 on 160 and 200 pictures are 0.06, and of one of 0.8 they are 0.08.
    assert measured.set_coverage >= 0.85
    assert measured.set_size < 0.7 * len(names)
    assert 0.72 <= measured.answer_coverage < 0.95
    assert measured.answer_precision > measured.after.accuracy
    assert measured.after.negative_log_likelihood < measured.before.negative_log_likelihood
    assert measured.after.expected_calibration_error < measured.before.expected_calibration_error
    precise = found.calibration(Wanted.parse(f"precision={precision}", None))
    measured = measure_answers(said.logits.numpy(), said.labels.numpy(), names, precise)
    assert measured.answer_precision is not None
    assert measured.answer_precision >= precision


@pytest.fixture
def said(backbone: Backbone, cache: FeatureCache) -> tuple[LeftOut, SavedModel]:
    training, config = pictures(2, 1), plain("tip-adapter")
    outcome = run(config, training, backbone=backbone, cache=cache)
    return cross_fit(config, training, outcome.model, backbone=backbone, cache=cache), outcome.model


def test_what_was_said_is_kept_to_the_bit(said: tuple[LeftOut, SavedModel], tmp_path: Path) -> None:
    found, model = said
    write_left_out(tmp_path / "left_out.safetensors", found, model)
    again = read_left_out(tmp_path / "left_out.safetensors", model)
    assert np.array_equal(again.logits, found.logits) and np.array_equal(again.labels, found.labels)
    assert (again.folds, again.class_names) == (found.folds, found.class_names)


def test_a_file_that_is_missing_damaged_or_of_another_model(said: tuple[LeftOut, SavedModel], tmp_path: Path) -> None:
    found, model = said
    path = tmp_path / "left_out.safetensors"
    with pytest.raises(DataError, match="no left-out shots beside this model"):
        read_left_out(path, model)
    write_left_out(path, found, model)
    other = dataclasses.replace(model, learnt={"keys": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="belongs to another model"):
        read_left_out(path, other)
    with pytest.raises(DataError, match="other classes than when"):
        read_left_out(path, dataclasses.replace(model, class_names=(*CLASSES, "owl")))
    whole = path.read_bytes()
    for place in (20, len(whole) - 1):
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="train again with --calibrate"):
            read_left_out(path, model)
