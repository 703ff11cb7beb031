"""SigLIP: our towers, tokens and pictures against the transformers library, and the methods on top of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.parity.siglip_files import (
    CONTEXT_LENGTH,
    GENERATIONS,
    IMAGE_SIZE,
    byte_pair_parts,
    change,
    write,
    write_siglip,
)
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import BackboneConfig, SiglipTextConfig
from promptmix.backbones.pixels import normalise_pixels
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.siglip_text import SiglipTextTower
from promptmix.backbones.siglip_vision import SiglipVisionTower
from promptmix.backbones.weights import save_folder
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import BackboneError, DataError
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.methods.registry import build_method
from promptmix.model_folder import read_model
from promptmix.prompts.bank import PromptBank
from promptmix.prompts.hard import encode_templates
from promptmix.prompts.templates import parse_template
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

transformers = pytest.importorskip("transformers", reason="the transformers library is for development only")

TEXTS = [
    "a photo of a cat",
    "A Photo of the ANCHOR.",
    "snowflake in the wild",
    "cat",
    "drawing of many cats at night",
    "émile's cat",
]
CLASSES = ("anchor", "cat", "skull")

Made = tuple[Any, Backbone, Path]


@pytest.fixture(scope="module", params=GENERATIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The library's model, our backbone from its files, and their folder."""
    # A folder in a numbered one: a third "siglip" on one worker would be numbered siglip2.
    folder = tmp_path_factory.mktemp("made") / request.param
    folder.mkdir()
    model = write_siglip(folder, request.param)
    return model, load_backbone(str(folder), device="cpu"), folder


def text_of(backbone: Backbone) -> SiglipTextTower:
    assert isinstance(backbone.text, SiglipTextTower)
    return backbone.text


def their_tokens(folder: Path) -> Tensor:
    """The texts as the library's own tokenizers write them, padded to the whole context."""
    if folder.name == "siglip2":
        vocabulary, merges = byte_pair_parts()
        tokenizer = transformers.models.siglip2.Siglip2Tokenizer(
            vocab=vocabulary, merges=merges, add_bos_token=False, add_eos_token=True, padding_side="right"
        )
    else:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), pad_token="</s>", eos_token="</s>"
        )
    found = tokenizer(TEXTS, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt")
    return found["input_ids"]


def our_tokens(backbone: Backbone) -> Tensor:
    text, tokenizer = text_of(backbone), backbone.require_text()[1]
    assert tokenizer.start_token is None
    rows = [[*tokenizer.encode(one), tokenizer.end_token] for one in TEXTS]
    return torch.tensor([row + [text.config.pad_token] * (CONTEXT_LENGTH - len(row)) for row in rows])


def test_tokens_are_those_of_transformers(made: Made) -> None:
    _, backbone, folder = made
    assert torch.equal(our_tokens(backbone), their_tokens(folder))


def test_features_are_those_of_transformers(made: Made) -> None:
    model, backbone, folder = made
    tokens, pixels = their_tokens(folder), torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1
    assert backbone.vision is not None
    with torch.no_grad():
        theirs = model(input_ids=tokens, pixel_values=pixels)
        ours_text, ours_image = text_of(backbone)(tokens), backbone.vision(pixels)
        # Pad tokens are looked at, as they were in training: a mask over them would be another model.
        masked = model.get_text_features(input_ids=tokens, attention_mask=(tokens != tokens[0, -1]).long()).pooler_output
    torch.testing.assert_close(ours_text, theirs.text_model_output.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_image, theirs.vision_model_output.pooler_output, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours_text, masked, rtol=0, atol=1e-2)
    assert backbone.logit_scale == pytest.approx(float(torch.tensor(3.0).exp()))
    assert backbone.logit_bias == pytest.approx(-7.5)
    cosines = functional.normalize(ours_image, dim=-1) @ functional.normalize(ours_text, dim=-1).T
    ours = backbone.logit_scale * cosines + backbone.logit_bias
    torch.testing.assert_close(ours, theirs.logits_per_image, rtol=1e-5, atol=1e-4)
    # A softmax over classes does not notice the bias, so that classifiers may leave it out.
    torch.testing.assert_close((ours - backbone.logit_bias).softmax(1), ours.softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [(32, 32), (50, 70), (90, 40), (7, 5), (301, 33)])
def test_pixels_are_those_of_transformers(resample: int, size: tuple[int, int], tmp_path: Path) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    write_siglip(tmp_path, "siglip", resample)
    preprocess = load_backbone(str(tmp_path), device="cpu", with_text=False).config.preprocess
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((size[0] * 2, size[1] * 2), Image.Resampling.BICUBIC)
    theirs = SiglipImageProcessorPil.from_pretrained(str(tmp_path))(picture, return_tensors="pt")["pixel_values"]
    ours = normalise_pixels(torch.from_numpy(resize_and_crop(picture, preprocess))[None], preprocess)
    grey_level = 2 / 255
    assert (ours - theirs).abs().max() <= 1.01 * grey_level


SOFT = ["a photo of a {}.", "{} in the wild", "many {} at night.", "the {}", "{}."]


@pytest.mark.parametrize("text", SOFT)
@pytest.mark.parametrize("period", [False, True])
def test_a_soft_prompt_starts_as_its_words(text: str, period: bool, made: Made) -> None:
    tower, tokenizer = made[1].require_text()
    template = parse_template(text)
    bank = PromptBank(tower, tokenizer, [template], period)
    names = ("cat", "Snow_Flake", "zebra")
    soft = functional.normalize(bank.lay_out(names).encode(bank.starting_contexts()), dim=-1)
    hard = template.with_period() if period else template.without_period()
    torch.testing.assert_close(soft, encode_templates(tower, tokenizer, [hard], names)[0], rtol=1e-5, atol=1e-5)


def test_experts_of_a_bank_keep_their_places(made: Made) -> None:
    """Experts with the name in front and behind in one bank: each as if it were alone."""
    tower, tokenizer = made[1].require_text()
    templates = [parse_template(text) for text in SOFT]
    bank = PromptBank(tower, tokenizer, templates, True)
    together = bank.lay_out(["cat", "zebra"]).encode(bank.starting_contexts())
    alone = []
    for template in templates:
        one = PromptBank(tower, tokenizer, [template], True)
        alone.append(one.lay_out(["cat", "zebra"]).encode(one.starting_contexts()))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_the_size_of_a_chunk_changes_no_feature(made: Made) -> None:
    tower, tokenizer = made[1].require_text()
    templates, names = [parse_template(text) for text in SOFT], ["cat", "anchor", "skull", "wild", "zebra"]
    whole = encode_templates(tower, tokenizer, templates, names)
    for max_rows in (1, 2, 7):
        part = encode_templates(tower, tokenizer, templates, names, max_rows)
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def test_memory_for_the_gradient_grows_with_a_chunk_not_with_the_classes(made: Made) -> None:
    tower, tokenizer = made[1].require_text()
    bank = PromptBank(tower, tokenizer, [parse_template("a photo of a {}.")], True)

    def kept(num_names: int, max_rows: int) -> int:
        """Numbers kept for the backward pass after the forward pass."""
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        laid_out = bank.lay_out([f"cat {number}" for number in range(num_names)], max_rows)
        contexts = bank.starting_contexts().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            laid_out.encode(contexts)
        return total

    assert kept(12, 2) < kept(12, 1024) / 10
    # Of its own accord, too: a row is a whole context here, so that as many as the packed encoder takes would be too many.
    assert kept(130, 1024) < kept(128, 1024) / 10


def test_a_picture_is_the_same_alone_and_among_others(made: Made) -> None:
    pixels = torch.randint(0, 256, (5, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    together = made[1].encode_pixels(pixels)
    alone = torch.cat([made[1].encode_pixels(one[None]) for one in pixels])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_a_name_too_long_is_named(made: Made) -> None:
    tower, tokenizer = made[1].require_text()
    with pytest.raises(DataError, match=r"'cat .*16"):
        encode_templates(tower, tokenizer, [parse_template("a {}")], ["cat " * 30])


@given(text=st.text(max_size=12) | st.sampled_from(["</s>", "<EOS> a", "<bos>cat<pad>", "<e<eos>os>", "<unk>"]))
def test_no_text_ends_or_pads_itself(made: Made, text: str) -> None:
    tower, tokenizer = text_of(made[1]), made[1].require_text()[1]
    assert not {tokenizer.end_token, tower.config.pad_token} & set(tokenizer.encode(text))


# ------------------------------------------------------------------------------------------------------------ methods


def pictures(seed: int) -> LabelledPictures:
    drawn = draw_set(CLASSES, ("photo", "neon"), 2, seed)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero-shot": ("zero-shot", {}),
    "ensemble": ("ensemble", {"templates": ["a photo of a {}.", "many {}."]}),
    "coop": ("coop", {"context_tokens": 4}),
    "coop, words": ("coop", {"words": "a photo of a", "class_name_position": "middle"}),
    "coop, class-specific": ("coop", {"context_tokens": 3, "class_specific": True, "class_name_position": "front"}),
    "mocoop": ("mocoop", {"groups": [["a photo of a {}."], ["{} in the wild", "many {}"]]}),
    "mocoop, tuned norms": ("mocoop", {"groups": [["a {}."], ["the {}"]], "visual_layer_norms": True}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_method_learns_and_its_model_predicts_the_same_again(name: str, made: Made, tmp_path: Path) -> None:
    method, options = RUNS[name]
    learns = method in ("coop", "mocoop")
    recipe = {"epochs": 1, "batch_size": 4, "rate": 0.1, "warmup_epochs": 0} if learns else {}
    config = RunConfig.model_validate({"method": method, "options": options, "recipe": recipe, "seed": 1})
    test = pictures(2)
    outcome = run(config, pictures(1), test, backbone=made[1], out=tmp_path / "run")
    if learns:
        fresh = build_method(method, options, made[1], CLASSES, 1).learnt_state()
        assert all(torch.isfinite(value).all() for value in outcome.model.learnt.values())
        assert any(not torch.equal(value, fresh[key]) for key, value in outcome.model.learnt.items())
    predictor = Predictor.from_folder(tmp_path / "run", device="cpu")
    expected = Predictor(outcome.model, backbone=made[1]).logits(test.pictures)
    torch.testing.assert_close(predictor.logits(test.pictures), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0
    model = read_model(tmp_path / "run")
    if "class-specific" not in name:
        assert add_classes(model, ["wild cat"], made[1]).class_names == (*CLASSES, "wild cat")


def test_the_gradient_of_the_contexts_is_that_of_a_plain_loop(made: Made) -> None:
    tower, tokenizer = made[1].require_text()
    assert isinstance(tower, SiglipTextTower)
    bank = PromptBank(tower, tokenizer, [parse_template("a photo of a {}."), parse_template("many {} at night")], True)
    names = ("cat", "zebra", "skull")
    weights = torch.randn(6, 48, generator=torch.Generator().manual_seed(1))
    gradients = []
    for max_rows in (1024, 2):
        contexts = bank.starting_contexts().requires_grad_(True)
        (bank.lay_out(names, max_rows).encode(contexts) * weights).sum().backward()
        gradients.append(contexts.grad)
    contexts = bank.starting_contexts().requires_grad_(True)
    stop = tokenizer.encode(".")
    place, features = 0, []
    for slots, spaced in zip(bank.slots, (True, True), strict=True):
        for name in names:
            first = contexts[place : place + len(slots.before)]
            last = contexts[place + len(slots.before) : place + len(slots.before) + len(slots.after)]
            words = [*tokenizer.encode(" " * spaced + name)]
            room = CONTEXT_LENGTH - len(first) - len(words) - len(last)
            ending = [*stop, tokenizer.end_token]
            ending += [tower.config.pad_token] * (room - len(ending))
            table = tower.token_embedding.weight
            features.append(tower.encode_embeddings(torch.cat([first, table[words], last, table[ending]])[None])[0])
        place += len(slots.before) + len(slots.after)
    (torch.stack(features) * weights).sum().backward()
    for gradient in gradients:
        torch.testing.assert_close(gradient, contexts.grad, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- files


def test_our_own_format_holds_a_siglip_too(made: Made, tmp_path: Path) -> None:
    _, backbone, folder = made
    assert isinstance(backbone.vision, SiglipVisionTower)
    towers = {"text": text_of(backbone), "vision": backbone.vision}
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    save_folder(tmp_path, backbone.config, towers, torch.tensor(3.0), tokenizer)
    again = load_backbone(str(tmp_path), device="cpu")
    assert again.config == backbone.config
    assert torch.equal(our_tokens(again), our_tokens(backbone))
    tokens = our_tokens(backbone)
    with torch.no_grad():
        torch.testing.assert_close(text_of(again)(tokens), text_of(backbone)(tokens), rtol=2e-2, atol=2e-2)


def test_an_older_config_is_read_and_written_as_it_was() -> None:
    text = {
        "width": 16, "layers": 2, "heads": 2, "mlp_width": 24, "context_length": 12, "vocabulary_size": 1034,
        "activation": "quick_gelu", "layer_norm_epsilon": 1e-5, "start_token": 1032, "end_token": 1033,
    }  # fmt: skip
    vision = {
        "kind": "vision_transformer", "image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24,
        "activation": "gelu", "layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    preprocess = {"resize": 32, "crop": 32, "mean": [0.5, 0.4, 0.3], "standard_deviation": [0.2, 0.3, 0.4]}
    fields = {"embedding_width": 8, "text": text, "vision": vision, "preprocess": preprocess}
    # Key by key in their order, and none that was not there: fingerprints, and with them saved models, depend on it.
    written, given_fields = BackboneConfig.model_validate(fields).model_dump_json(), json.dumps(fields)
    assert json.loads(written, object_pairs_hook=list) == json.loads(given_fields, object_pairs_hook=list)
    named = BackboneConfig.model_validate({**fields, "text": {**text, "kind": "clip"}})
    assert named == BackboneConfig.model_validate(fields)


def test_what_the_files_say_is_what_is_done(tmp_path: Path) -> None:
    write_siglip(tmp_path, "siglip")
    change(tmp_path, "tokenizer_config.json", lambda content: content.update(do_lower_case=False))
    text = load_backbone(str(tmp_path), device="cpu").config.text
    assert isinstance(text, SiglipTextConfig)
    assert (text.lower_case, text.remove_punctuation, text.end_token, text.pad_token) == (False, True, 1, 1)
    write_siglip(tmp_path, "siglip2")
    text = load_backbone(str(tmp_path), device="cpu").config.text
    assert isinstance(text, SiglipTextConfig)
    assert (text.lower_case, text.remove_punctuation, text.end_token, text.pad_token) == (True, False, 1, 0)
    # What equals the format's own defaults is left out of older files; shapes then tell whether it was meant.
    change(tmp_path, "config.json", lambda content: content["text_config"].pop("hidden_act"))
    change(tmp_path, "config.json", lambda content: content["vision_config"].pop("layer_norm_eps"))
    # Words about start and end tokens in the settings, and the side in tokenizer.json.
    change(tmp_path, "tokenizer_config.json", lambda content: [content.pop(f"add_{one}_token") for one in ("bos", "eos")])
    change(tmp_path, "tokenizer_config.json", lambda content: content.pop("padding_side"))
    change(tmp_path, "tokenizer.json", lambda content: content.update(padding=padding("Right")))
    again = load_backbone(str(tmp_path), device="cpu").config
    assert again.text == text
    assert (again.vision.layer_norm_epsilon, again.text.activation) == (1e-6, "gelu_pytorch_tanh")  # type: ignore[union-attr]


def padding(direction: str) -> dict[str, Any]:
    return {
        "strategy": {"Fixed": 16}, "direction": direction, "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip


def pop(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change_it(content: dict[str, Any]) -> object:
        for key in keys[:-1]:
            content = content[key]
        return content.pop(keys[-1])

    return change_it


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change_it(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change_it


CONFIG, IMAGES, SETTINGS, SPECIAL, TOKENIZER = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
)
WRONG: list[tuple[str, str, Callable[[dict[str, Any]], object], tuple[str, ...]]] = [
    ("siglip", CONFIG, put("model_type", value="siglip2"), (CONFIG, "NaFlex")),
    ("siglip", CONFIG, pop("text_config"), (CONFIG, "text_config is missing")),
    ("siglip", CONFIG, put("vision_config", value=[]), (CONFIG, "vision_config is []")),
    ("siglip", CONFIG, put("text_config", "hidden_size", value="wide"), (CONFIG, "text_config.hidden_size", "'wide'")),
    ("siglip", CONFIG, put("text_config", "hidden_size", value=30), (CONFIG, "text_config.hidden_size is 30", "4")),
    ("siglip", CONFIG, put("text_config", "num_hidden_layers", value=True), (CONFIG, "text_config.num_hidden_layers is True")),
    ("siglip", CONFIG, put("text_config", "hidden_act", value="relu"), (CONFIG, "text_config.hidden_act", "'relu'", "gelu")),
    ("siglip", CONFIG, put("text_config", "layer_norm_eps", value=0), (CONFIG, "text_config.layer_norm_eps is 0")),
    ("siglip", CONFIG, put("text_config", "layer_norm_eps", value=10**400), (CONFIG, "text_config.layer_norm_eps")),
    ("siglip", CONFIG, put("text_config", "max_position_embeddings", value=20), (SETTINGS, "model_max_length is 16", "20")),
    ("siglip", CONFIG, put("text_config", "projection_size", value=32), (CONFIG, "embedding_width is 32", "48")),
    ("siglip", CONFIG, put("text_config", "projection_size", value=0), (CONFIG, "text_config.projection_size is 0")),
    ("siglip", CONFIG, put("vision_config", "vision_use_head", value=False), (CONFIG, "vision_config.vision_use_head is False")),
    ("siglip", CONFIG, put("vision_config", "num_channels", value=1), (CONFIG, "vision_config.num_channels is 1")),
    ("siglip", CONFIG, put("vision_config", "image_size", value=[32, 32]), (CONFIG, "vision_config.image_size is [32, 32]")),
    ("siglip", CONFIG, put("vision_config", "image_size", value=64), (CONFIG, "32", "64")),
    ("siglip", IMAGES, put("size", value={"shortest_edge": 32}), (IMAGES, "size")),
    ("siglip", IMAGES, put("size", value={"height": 32, "width": 48}), (IMAGES, "size")),
    ("siglip", IMAGES, put("resample", value=0), (IMAGES, "resample is 0")),
    ("siglip", IMAGES, put("do_normalize", value=False), (IMAGES, "do_normalize is False")),
    ("siglip", IMAGES, put("rescale_factor", value=1), (IMAGES, "rescale_factor is 1")),
    ("siglip", IMAGES, pop("image_mean"), (IMAGES, "image_mean is missing")),
    ("siglip", SETTINGS, pop("tokenizer_class"), (SETTINGS, "tokenizer_class is missing")),
    (
        "siglip",
        SETTINGS,
        put("tokenizer_class", value="BertTokenizer"),
        (SETTINGS, "tokenizer_class", "'BertTokenizer'", "Siglip"),
    ),
    ("siglip", SETTINGS, put("tokenizer_class", value=[]), (SETTINGS, "tokenizer_class is []")),
    ("siglip", SETTINGS, put("do_lower_case", value="yes"), (SETTINGS, "do_lower_case is 'yes'")),
    ("siglip", SETTINGS, put("padding_side", value="left"), (SETTINGS, "padding_side is 'left'", "'right'")),
    ("siglip", SETTINGS, put("model_max_length", value=8), (SETTINGS, "model_max_length is 8", "16")),
    ("siglip", SETTINGS, put("pad_token", value="<pad>"), (SPECIAL, "pad_token is '</s>'", "'<pad>'")),
    ("siglip", SETTINGS, put("pad_token", value=7), (SETTINGS, "pad_token is 7")),
    ("siglip", SPECIAL, put("eos_token", value={"content": ""}), (SPECIAL, "eos_token")),
    ("siglip", TOKENIZER, put("added_tokens", value=[]), (TOKENIZER, "added_tokens", "'</s>'", "eos_token")),
    ("siglip2", SETTINGS, pop("padding_side"), (SETTINGS, "padding_side is missing")),
    ("siglip2", SETTINGS, put("add_bos_token", value=True), (SETTINGS, "add_bos_token", "start token")),
    ("siglip2", SETTINGS, pop("add_eos_token"), (SETTINGS, "add_eos_token is missing", "<eos>")),
    ("siglip2", SETTINGS, put("add_eos_token", value=0), (SETTINGS, "add_eos_token is 0")),
    ("siglip2", TOKENIZER, pop("added_tokens"), (TOKENIZER, "added_tokens")),
]


@pytest.mark.parametrize(("generation", "name", "how", "words"), WRONG)
def test_a_surprise_is_one_line_that_names_file_and_key(
    generation: str, name: str, how: Callable[[dict[str, Any]], object], words: tuple[str, ...], tmp_path: Path
) -> None:
    write_siglip(tmp_path, generation)
    change(tmp_path, name, how)
    refused(tmp_path, *words)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("direction", ["Left", "surprise"])
def test_padding_on_the_left_is_refused_wherever_it_is_said(direction: str, tmp_path: Path) -> None:
    write_siglip(tmp_path, "siglip2")
    change(tmp_path, SETTINGS, pop("padding_side"))
    change(tmp_path, TOKENIZER, put("padding", value=padding(direction)))
    refused(tmp_path, "padding_side", f"'{direction.lower()}'")


@pytest.mark.parametrize(
    ("single", "words"),
    [
        ([{"SpecialToken": {"id": "<bos>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<eos>"}}], ("start token",)),
        ([{"Sequence": {"id": "A"}}], ("'<eos>'", "add_eos_token")),
        ([{"SpecialToken": {}}], ("post_processor",)),
        (7, ("post_processor",)),
    ],
)
def test_a_tokenizer_that_frames_texts_otherwise_is_refused(single: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    write_siglip(tmp_path, "siglip2")
    change(tmp_path, SETTINGS, lambda content: [content.pop(f"add_{one}_token") for one in ("bos", "eos")])
    change(tmp_path, TOKENIZER, put("post_processor", "single", value=single))
    refused(tmp_path, TOKENIZER, *words)


@pytest.mark.parametrize("name", [IMAGES, SETTINGS, TOKENIZER])
def test_a_file_that_is_missing_or_no_object_is_named(name: str, tmp_path: Path) -> None:
    write_siglip(tmp_path, "siglip")
    write(tmp_path, name, [1])
    refused(tmp_path, name)
    (tmp_path / name).unlink()
    refused(tmp_path, name, "missing")


@pytest.mark.parametrize(
    "name",
    [
        "logit_bias",
        "logit_scale",
        "text_model.head.bias",
        "vision_model.head.probe",
        "vision_model.encoder.layers.1.self_attn.k_proj.bias",
    ],
)
def test_a_missing_weight_is_an_error(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_siglip(tmp_path, "siglip")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, "lack" if name != "logit_scale" else "logit_scale is missing")
