"""CoCoOp beyond what every method does: class features that depend on the picture, in training, in prediction and in a saved model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.siglip_files import write_siglip
from torch import Tensor
from torch.nn import functional

from promptmix import PromptClassifier, demo
from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.images import PictureSource
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import BackboneError, CheckpointError, ConfigError, DataError
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, add_classes, remove_classes
from promptmix.methods import cocoop
from promptmix.methods.base import Recipe
from promptmix.methods.cocoop import CoCoOp, ConditionalClassifier
from promptmix.methods.registry import build_method
from promptmix.model_folder import SavedModel, read_model, write_classes, write_model
from promptmix.prompts.soft_prompt import SoftPrompt
from promptmix.runtime import torch_generator
from promptmix.structs import Batch
from promptmix.training.feeds import CachedFeed
from promptmix.training.fit import RunConfig
from promptmix.training.loop import train
from promptmix.training.run import run

CLASSES = ("anchor", "cat", "snowflake", "umbrella")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def features(count: int, width: int = 128) -> Tensor:
    return functional.normalize(torch.randn(count, width, generator=torch_generator(0, "cocoop features")), dim=-1)


def made(backbone: Backbone, **options: object) -> CoCoOp:
    method = build_method("cocoop", options, backbone, CLASSES, 1)
    assert isinstance(method, CoCoOp)
    return method


def one_by_one(method: CoCoOp, backbone: Backbone, names: tuple[str, ...], images: Tensor) -> Tensor:
    """Logits, each picture's prompts encoded alone."""
    tower, tokenizer = backbone.require_text()
    prompts = SoftPrompt(tower, tokenizer, len(method.context)).lay_out(names)
    rows = []
    for image in images:
        hidden = (method.hidden_weight @ image + method.hidden_bias).clamp_min(0)
        texts = prompts.encode(method.context + method.shift_weight @ hidden + method.shift_bias)
        rows.append(backbone.logit_scale * functional.normalize(texts, dim=-1) @ image)
    return torch.stack(rows)


def test_a_batch_is_its_pictures_one_by_one(backbone: Backbone) -> None:
    method = made(backbone)
    images = features(5)
    output = method.training_step(Batch(image_features=images, labels=torch.arange(5) % 4))
    expected = one_by_one(method, backbone, CLASSES, images)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    first, second = method.prompts.encode(method.context + method.meta_net(images[:2])[:, None])
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_meta_net_is_sixteen_times_narrower_and_starts_within_its_bounds(backbone: Backbone) -> None:
    method = made(backbone)
    assert method.hidden_weight.shape == (128 // 16, 128)
    assert method.shift_weight.shape == (method.context.shape[1], 8)
    assert float(method.hidden_weight.detach().abs().max()) <= 128**-0.5
    assert float(method.shift_weight.detach().abs().max()) <= 8**-0.5
    assert made(backbone, reduction=1000).hidden_weight.shape == (1, 128)
    assert not torch.equal(method.hidden_weight, build_method("cocoop", {}, backbone, CLASSES, 2).hidden_weight)


def test_it_learns_at_a_batch_of_one_and_of_many(backbone: Backbone) -> None:
    assert CoCoOp.default_recipe(16) == Recipe(rate=0.002, epochs=10, batch_size=1)
    labels = torch.arange(16) % 4
    for size in (1, 8):
        method = made(backbone)
        batch = Batch(image_features=features(16), labels=labels)
        before = float(method.training_step(batch).loss.detach())
        recipe = Recipe(rate=0.02, epochs=6, batch_size=size, warmup_epochs=0)
        train(method, recipe, CachedFeed(features(16)[:, None], labels, 1))
        assert float(method.training_step(batch).loss.detach()) < before - 0.05


@pytest.mark.parametrize("rows", [1, 9, 1024])
def test_pictures_are_taken_in_blocks_that_do_not_grow(rows: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    method = made(backbone)
    images = features(11)
    expected = one_by_one(method, backbone, CLASSES, images)
    laid_out: list[int] = []
    lay_out = SoftPrompt.lay_out

    def noted(self: SoftPrompt, names: tuple[str, ...], copies: int = 1, max_rows: int = 1024) -> object:
        laid_out.append(copies)
        return lay_out(self, names, copies, max_rows)

    monkeypatch.setattr(cocoop, "_MOST_ROWS", rows)
    monkeypatch.setattr(SoftPrompt, "lay_out", noted)
    classifier = method.classifier_for(CLASSES)
    torch.testing.assert_close(classifier.logits(images), expected, rtol=1e-4, atol=1e-4)
    assert max(laid_out) * len(CLASSES) <= max(rows, len(CLASSES))
    made_once = len(laid_out)
    classifier.logits(images)
    assert len(laid_out) == made_once  # the same blocks again
    assert classifier.logits(images[:0]).shape == (0, 4)
    assert torch.equal(classifier.expert_weights(images), torch.ones(11, 1))


def test_other_classes_have_their_own_prompts(backbone: Backbone) -> None:
    method = made(backbone)
    images, names = features(3), ("skull", "cat", "heart")
    torch.testing.assert_close(
        method.classifier_for(names).logits(images), one_by_one(method, backbone, names, images), rtol=1e-4, atol=1e-4
    )


def test_there_are_no_class_features_without_a_picture(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="depend on the picture"):
        made(backbone).encode_classes(CLASSES)
    with pytest.raises(DataError, match=r"needs .* tokens but the text tower has room"):
        made(backbone).classifier_for(("cat", "very " * 90 + "long"))


def test_it_works_with_a_tower_whose_tokens_all_see_each_other(tmp_path: Path) -> None:
    write_siglip(tmp_path)
    siglip = load_backbone(str(tmp_path), device="cpu")
    method = made(siglip)
    images = features(3, siglip.config.embedding_width)
    output = method.training_step(Batch(image_features=images, labels=torch.arange(3)))
    torch.testing.assert_close(output.logits, one_by_one(method, siglip, CLASSES, images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def trained(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    root = tmp_path_factory.mktemp("cocoop")
    config = RunConfig.model_validate({"method": "cocoop", "recipe": {"epochs": 2, "batch_size": 8, "rate": 0.02}})
    outcome = run(config, drawn(3, 1), drawn(2, 3), backbone=backbone, cache=FeatureCache(root / "features"), out=root / "run")
    assert outcome.model.classifier is None
    assert outcome.result.text_encodings_per_step == len(CLASSES)  # for each picture of a step
    assert outcome.result.num_trained_parameters == sum(value.numel() for value in outcome.model.learnt.values())
    return root / "run"


def drawn(per_class: int, seed: int) -> LabelledPictures:
    pictures = draw_set(CLASSES, ("stamp",), per_class, seed)
    labels = [CLASSES.index(one.class_name) for one in pictures]
    return LabelledPictures(pictures=[one.image for one in pictures], labels=labels, class_names=CLASSES, description="drawn")


def logits_of(predictor: Predictor, pictures: list[PictureSource] | None = None) -> Tensor:
    return predictor.logits(drawn(2, 2).pictures if pictures is None else pictures)


def test_a_saved_model_predicts_with_the_text_tower(trained: Path, backbone: Backbone) -> None:
    predictor = Predictor.from_folder(trained, device="cpu")
    assert predictor.backbone.text is not None
    assert isinstance(predictor.classifier, ConditionalClassifier)
    model = read_model(trained)
    method = made(backbone)
    method.load_learnt_state(model.learnt)
    pictures = drawn(2, 2).pictures
    seen = extract_features(backbone, pictures).features[:, 0]
    expected = one_by_one(method, backbone, CLASSES, seen)
    torch.testing.assert_close(logits_of(predictor), expected, rtol=1e-4, atol=1e-4)
    said = predictor.predict(pictures, top=2).predictions
    assert [one.class_name for one in said] == [CLASSES[place] for place in expected.argmax(dim=1)]
    assert all(one.experts == (("cocoop", 1.0),) for one in said)


def test_without_the_text_tower_it_says_so(trained: Path, backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="without its text tower"):
        Predictor(read_model(trained), backbone=dataclasses.replace(backbone, text=None, tokenizer=None))


def test_its_folder_holds_no_classifier_and_takes_none(trained: Path, backbone: Backbone, tmp_path: Path) -> None:
    model = read_model(trained)
    assert load_file(trained / "model" / "class_features.safetensors") == {}
    plain = build_method("zero-shot", {}, backbone, CLASSES).classifier()
    write_model(tmp_path / "model", dataclasses.replace(model, classifier=plain))
    with pytest.raises(CheckpointError, match=r"class_features.safetensors: tensor class_features is there, but method cocoop"):
        read_model(tmp_path / "model")


def test_another_method_needs_its_classifier(backbone: Backbone, tmp_path: Path) -> None:
    method = build_method("zero-shot", {}, backbone, CLASSES)
    model = SavedModel(
        method="zero-shot",
        options=method.saved_options(),
        class_names=CLASSES,
        trained_class_names=CLASSES,
        more_class_names=(),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=method.expert_names,
        classifier=None,
        learnt={},
        training={},
    )
    write_model(tmp_path / "model", model)
    with pytest.raises(CheckpointError, match="tensor class_features is missing"):
        read_model(tmp_path / "model")
    write_model(tmp_path / "unknown", dataclasses.replace(model, method="coocoop"))
    with pytest.raises(CheckpointError, match="unknown method 'coocoop'; did you mean 'cocoop'"):
        read_model(tmp_path / "unknown")


def test_classes_come_and_go(trained: Path, backbone: Backbone, tmp_path: Path) -> None:
    model = read_model(trained)
    before = logits_of(Predictor(model, backbone=backbone))
    added = add_classes(model, ["polar_bear", "heart"], backbone)
    assert added.class_names == (*CLASSES, "polar bear", "heart")
    torch.testing.assert_close(logits_of(Predictor(added, backbone=backbone))[:, :4], before, rtol=1e-5, atol=1e-4)
    left = remove_classes(added, ["anchor", "heart"])
    write_model(tmp_path / "model", model)
    write_classes(tmp_path / "model", left)
    again = Predictor.from_folder(tmp_path / "model", device="cpu")
    assert again.model.class_names == ("cat", "snowflake", "umbrella", "polar bear")
    expected = logits_of(Predictor(added, backbone=backbone))[:, 1:5]
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-5, atol=1e-4)
    with pytest.raises(DataError, match=r"needs .* tokens"):
        add_classes(model, ["very " * 39 + "old"], backbone)
    with pytest.raises(DataError, match="same name"):
        add_classes(model, ["cat"], backbone)


def test_the_estimator_saves_changes_and_reads_it(trained: Path, tmp_path: Path) -> None:
    classifier = PromptClassifier.from_pretrained(trained, device="cpu", cache=False)
    pictures = drawn(1, 2).pictures
    before = classifier.predict_proba(pictures)
    assert list(classifier.add_classes(["heart"]).classes_) == [*CLASSES, "heart"]
    classifier.save_pretrained(tmp_path / "model")
    again = PromptClassifier.from_pretrained(tmp_path / "model", device="cpu", cache=False)
    torch.testing.assert_close(torch.tensor(again.predict_proba(pictures)), torch.tensor(classifier.predict_proba(pictures)))
    removed = again.remove_classes(["heart"]).predict_proba(pictures)
    torch.testing.assert_close(torch.tensor(removed), torch.tensor(before), rtol=1e-4, atol=1e-6)


def test_a_run_that_stopped_goes_on_to_the_same_end(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(8) % 4
    recipe = Recipe(rate=0.02, epochs=4, batch_size=4, warmup_epochs=0)
    whole, resumed = made(backbone), made(backbone)
    train(whole, recipe, CachedFeed(features(8)[:, None], labels, 1))
    path = tmp_path / "checkpoint.safetensors"

    class Stopped(Exception):
        pass

    def stop(step: object) -> None:
        if getattr(step, "epoch", 0) == 2:
            raise Stopped

    feed = CachedFeed(features(8)[:, None], labels, 1)
    monkeypatch.setattr("promptmix.training.loop._SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    with pytest.raises(Stopped):
        train(resumed, recipe, feed, checkpoint_path=path, on_step=stop)
    again = made(backbone)
    train(again, recipe, feed, checkpoint_path=path)
    assert all(torch.equal(value, whole.learnt_state()[name]) for name, value in again.learnt_state().items())


def test_the_demo_compares_it_on_base_and_on_new_classes(backbone: Backbone) -> None:
    whole = demo.draw_task((1,))
    base, new = whole.base[:3], whole.new[:3]
    task = demo.DemoTask(
        base=base,
        new=new,
        training={1: [one for one in whole.training[1] if one.class_name in base]},
        test_base=[one for one in whole.test_base if one.class_name in base],
        test_new=[one for one in whole.test_new if one.class_name in new],
    )
    config = {"method": "cocoop", "recipe": {"epochs": 1, "batch_size": 8}, "augmentation": {"views": 0}}
    scores = demo.compare(task, backbone, None, {"CoCoOp": config})["CoCoOp"]
    assert scores.new is not None
    assert 0 < scores.base[0] <= 1
    (model,) = scores.models
    logits = Predictor(model, backbone=backbone).logits([one.image for one in task.test_base])
    said = [base[place] == one.class_name for place, one in zip(logits.argmax(dim=1), task.test_base, strict=True)]
    assert scores.base[0] == pytest.approx(sum(said) / len(said))
