"""LASP beyond what every method does: the text loss, its references and their noise, and the image tower's layer norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backbone_files import write_with_vision_transformer
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError
from promptmix.methods.lasp import Lasp
from promptmix.methods.registry import build_method
from promptmix.prompts.templates import load_bank
from promptmix.runtime import torch_generator
from promptmix.structs import Batch

CLASSES = ("anchor", "cat", "snowflake")
MORE = ("skull", "heart")
TEMPLATES = ("a drawing of the {}.", "{} texture.", "many {}.", "a {} at night.")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def built(backbone: Backbone, options: dict[str, object], classes: tuple[str, ...] = CLASSES, seed: int = 1) -> Lasp:
    """With a correction that is not 0."""
    method = Lasp(Lasp.parse_options({"templates": TEMPLATES, **options}), backbone, classes, seed, MORE)
    with torch.no_grad():
        method.correction.copy_(0.5 * torch.randn(128, generator=torch_generator(0, "lasp correction")))
    return method


def batch(number: int = 0) -> Batch:
    features = functional.normalize(torch.randn(5, 128, generator=torch_generator(0, "lasp")), dim=-1)
    return Batch(image_features=features, labels=torch.tensor([0, 1, 2, 1, 0]), number=number)


@pytest.mark.parametrize("classes", ["train", "all"])
@pytest.mark.parametrize("direction", ["references", "prompts"])
def test_the_text_loss_is_that_of_a_loop(direction: str, classes: str, backbone: Backbone) -> None:
    options = {"text_direction": direction, "text_classes": classes, "text_weight": 2.0, "text_temperature": 7.0}
    method = built(backbone, options)
    output = method.training_step(batch())
    names = CLASSES + (MORE if classes == "all" else ())
    learnt = method.encode_classes(names)[0]
    losses = []
    for template in TEMPLATES:
        hard = build_method("zero-shot", {"template": template}, backbone, names).encode_classes(names)[0]
        for number in range(len(names)):
            over = hard @ learnt[number] if direction == "references" else learnt @ hard[number]
            losses.append(float(-torch.log_softmax(7 * over, dim=0)[number]))
    assert float(output.terms["text"].detach()) == pytest.approx(2 * sum(losses) / len(losses), rel=1e-4)


def test_the_paper_and_the_released_code_differ_in_more_than_rounding(backbone: Backbone) -> None:
    losses = [
        float(built(backbone, {"text_direction": direction}).training_step(batch()).terms["text"].detach())
        for direction in ("references", "prompts")
    ]
    assert abs(losses[0] - losses[1]) > 0.1


def test_the_correction_is_shared_and_starts_at_nothing(backbone: Backbone) -> None:
    plain = Lasp(Lasp.parse_options({}), backbone, CLASSES)
    zero_shot = build_method("zero-shot", {}, backbone, CLASSES)
    torch.testing.assert_close(plain.encode_classes(CLASSES), zero_shot.encode_classes(CLASSES))
    method = built(backbone, {})
    raw = method._packed.encode(method.context)
    for number in range(len(CLASSES)):
        moved = raw[number] + method.correction
        torch.testing.assert_close(method.encode_classes(CLASSES)[0, number], moved / moved.norm())


def noises(method: Lasp, numbers: range) -> list[Tensor]:
    return [noise for noise in map(method._noise, numbers) if noise is not None]


def test_noise_comes_as_often_and_as_strong_as_asked(backbone: Backbone) -> None:
    method = built(backbone, {"noise_deviation": 0.05, "noise_probability": 0.25})
    some = noises(method, range(400))
    assert 70 <= len(some) <= 130  # 100 on average, 8.7 the deviation
    values = torch.stack(some)
    assert float(values.std()) == pytest.approx(0.05, rel=0.02)
    assert float(values.mean()) == pytest.approx(0, abs=1e-3)
    assert not torch.equal(some[0], some[1])
    for probability, expected in ((0.0, 0), (1.0, 20)):
        always_or_never = built(backbone, {"noise_deviation": 0.05, "noise_probability": probability})
        assert len(noises(always_or_never, range(20))) == expected
    assert noises(built(backbone, {}), range(20)) == []


def test_noise_is_a_matter_of_the_seed_and_the_step(backbone: Backbone) -> None:
    options = {"noise_deviation": 0.05, "noise_probability": 1.0}
    method, again, other = (built(backbone, options, seed=seed) for seed in (1, 1, 2))
    noises(again, range(5))  # whatever came before
    first, second, third = (one._noise(7) for one in (method, again, other))
    assert first is not None and second is not None and third is not None
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_noise_goes_with_a_name_whatever_its_place(backbone: Backbone) -> None:
    options = {"noise_deviation": 0.05, "noise_probability": 1.0}
    noise, turned = (built(backbone, options, classes)._noise(0) for classes in (CLASSES, CLASSES[::-1]))
    assert noise is not None and turned is not None
    assert torch.equal(noise.flip(1), turned)


def test_noise_moves_the_text_loss_and_nothing_that_stays(backbone: Backbone) -> None:
    quiet, noisy = (
        built(backbone, {"noise_deviation": deviation, "noise_probability": 1.0, "text_temperature": 5.0})
        for deviation in (0.0, 0.2)
    )
    references = noisy._references.clone()
    steps = [noisy.training_step(batch(number)) for number in (0, 1, 0)]
    assert torch.equal(noisy._references, references)
    plain = quiet.training_step(batch())
    assert torch.equal(steps[0].terms["classification"], plain.terms["classification"])
    losses = [float(step.terms["text"].detach()) for step in steps]
    assert losses[0] == losses[2]
    assert len({*losses, float(plain.terms["text"].detach())}) == 3
    assert torch.equal(noisy.classifier().logits(batch().image_features), quiet.classifier().logits(batch().image_features))


def test_a_run_that_used_other_names_says_so(backbone: Backbone) -> None:
    used = built(backbone, {"text_classes": "all"})
    assert used.notes() == ["the text loss used the names of classes without pictures"]
    assert used.text_encodings_per_step == len(CLASSES) + len(MORE)
    for options in ({"text_classes": "train"}, {"text_classes": "all", "text_weight": 0.0}):
        unused = built(backbone, options)
        assert unused.notes() == []
        assert unused.text_encodings_per_step == len(CLASSES)
    assert built(backbone, {"text_weight": 0.0}).training_step(batch()).terms.keys() == {"classification"}


def test_the_references_belong_to_the_saved_model(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("groups:\n  - many {}.\n  - ['a {}.', 'the {}.']\n")
    method = build_method("lasp", {"bank": str(tmp_path / "mine.yaml")}, backbone, CLASSES)
    assert method.saved_options()["templates"] == ["many {}.", "a {}.", "the {}."]
    assert method.config.stands_for() == "['many {}.', 'a {}.', 'the {}.']"
    assert Lasp.parse_options({"templates": TEMPLATES}).stands_for() == ""
    with pytest.raises(ConfigError, match="no template bank is called 'las'"):
        build_method("lasp", {"bank": "las"}, backbone, CLASSES)


def test_its_bank_has_34_templates_of_their_own() -> None:
    assert [len(group.templates) for group in load_bank("lasp")] == [1] * 34


def test_the_layer_norms_are_learnt_at_a_tenth_of_the_rate(tmp_path: Path) -> None:
    write_with_vision_transformer(tmp_path)
    backbone = load_backbone(str(tmp_path), device="cpu")
    method = Lasp(Lasp.parse_options({"preset": "as_released"}), backbone, CLASSES)
    assert method.tunes_image_tower
    multipliers = {name: method.rate_multiplier(name) for name, _ in method.named_parameters()}
    assert {name: multipliers.pop(name) for name in ("context", "correction")} == {"context": 1.0, "correction": 1.0}
    assert len(multipliers) == 2 * len({name.rpartition("/")[0] for name in multipliers}) > 0
    assert set(multipliers.values()) == {0.1}
    pixels = torch.randint(256, (5, 64, 64, 3), generator=torch_generator(0, "lasp pixels"), dtype=torch.uint8)
    features = method.encode_training_pixels(pixels, 0)
    method.backward(method.training_step(Batch(image_features=features, labels=batch().labels)))
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name
    plain = Lasp(Lasp.parse_options({"preset": "as_released", "visual_layer_norms": False}), backbone, CLASSES)
    assert not plain.tunes_image_tower
    assert {name for name, _ in plain.named_parameters()} == {"context", "correction"}


def test_a_tower_without_such_norms_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"visual_layer_norms needs a vision transformer.* set visual_layer_norms=false"):
        build_method("lasp", {"preset": "as_released"}, backbone, CLASSES)


def test_the_published_recipe() -> None:
    recipe = Lasp.default_recipe(16)
    assert (recipe.rate, recipe.batch_size, recipe.epochs, recipe.warmup_epochs, recipe.clip) == (0.032, 32, 50, 5, 1.0)
