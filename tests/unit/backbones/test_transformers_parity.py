"""Our towers against CLIPModel of the transformers library, on random weights read from the files it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backbone_files import EARLY_TOKENS, TOKENS, write_clip
from torch.nn import functional

from promptmix.backbones.registry import load_backbone
from promptmix.errors import BackboneError

pytest.importorskip("transformers", reason="the transformers library is for development only")


@pytest.mark.parametrize(
    ("activation", "tokens", "half"),
    [
        ("quick_gelu", TOKENS, False),
        ("gelu", TOKENS, False),
        ("gelu_pytorch_tanh", TOKENS, False),
        ("quick_gelu", EARLY_TOKENS, False),
        ("quick_gelu", TOKENS, True),
    ],
)
def test_features_are_those_of_transformers(activation: str, tokens: dict[str, int], half: bool, tmp_path: Path) -> None:
    model = write_clip(tmp_path, activation, tokens, half)
    backbone = load_backbone(str(tmp_path), device="cpu")
    assert backbone.vision is not None
    assert backbone.text is not None
    pixels = torch.rand(3, 3, 32, 32)
    sequences = torch.tensor([[1032, 5, 9, 1033, 1033], [1032, 7, 1033, 1033, 1033]])
    ends = torch.tensor([3, 2])
    with torch.no_grad():
        theirs_image = model.get_image_features(pixel_values=pixels)
        theirs_text = model.get_text_features(input_ids=sequences)
        ours_image = backbone.vision(pixels)
        ours_text = backbone.text.encode_padded(backbone.text.token_embedding(sequences), ends)
    # Newer versions wrap the features.
    theirs_image, theirs_text = (getattr(one, "pooler_output", one) for one in (theirs_image, theirs_text))
    for ours, theirs in ((ours_image, theirs_image), (ours_text, theirs_text)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        # As they are compared: normalised.
        torch.testing.assert_close(functional.normalize(ours, dim=-1), functional.normalize(theirs, dim=-1), rtol=0, atol=1e-5)
    assert backbone.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)
    cosines = functional.normalize(ours_image, dim=-1) @ functional.normalize(ours_text, dim=-1).T
    assert cosines.abs().max() <= 1.00001
    assert backbone.config.text.end_token == 1033


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path, "gelu")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(BackboneError, match=r"model\.safetensors"):
        load_backbone(str(tmp_path), device="cpu")


def test_loading_is_strict(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_clip(tmp_path, "gelu")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "text_model.final_layer_norm.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(BackboneError, match=r"final_norm\.weight|final_layer_norm\.weight"):
        load_backbone(str(tmp_path), device="cpu")
    save_file({**tensors, name: torch.zeros(7)}, path)
    with pytest.raises(BackboneError, match=r"7.*32|32.*7"):
        load_backbone(str(tmp_path), device="cpu")
    save_file({**tensors, "text_model.surprise": torch.zeros(7)}, path)
    with pytest.raises(BackboneError, match="surprise"):
        load_backbone(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"model_type": "bert"}', '{"format": "promptmix-backbone", "embedding_width": "x"}']
)
def test_a_config_that_is_none_is_one_clear_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BackboneError, match=r"config\.json") as caught:
        load_backbone(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)
