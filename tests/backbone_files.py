"""Small backbones with random weights, in each format: written by transformers, from a textbook CLIP of OpenAI's parameter names, or ours."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from promptmix.backbones.configs import BackboneConfig, ModifiedResNetConfig, VisionTransformerConfig
from promptmix.backbones.registry import bundled_folder, load_backbone
from promptmix.backbones.vision_resnet import ModifiedResNet
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.backbones.weights import save_folder

SMALL_TOKENIZER = Path(__file__).parent / "fixtures" / "small_tokenizer.json"  # 1,034 tokens
WIDTH = 128  # two heads of 64 channels: OpenAI's archives leave no choice
EMBEDDING_WIDTH = 32
IMAGE_SIZE = 32
PATCH_SIZE = 8
CONTEXT_LENGTH = 20
VOCABULARY_SIZE = 49408

OPEN_CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": EMBEDDING_WIDTH,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 2, "width": WIDTH, "head_width": 32, "patch_size": PATCH_SIZE},
        "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": VOCABULARY_SIZE, "width": WIDTH, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"},
}


class QuickGelu(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


class Perceptron(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = nn.Linear(WIDTH, 4 * WIDTH), activation(), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.c_proj(self.gelu(self.c_fc(values)))
        return result


class Block(nn.Module):
    def __init__(self, heads: int, activation: Callable[[], nn.Module], mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, heads, batch_first=True)
        self.ln_1, self.mlp, self.ln_2 = nn.LayerNorm(WIDTH), Perceptron(activation), nn.LayerNorm(WIDTH)
        self.mask = mask

    def forward(self, values: Tensor) -> Tensor:
        normed = self.ln_1(values)
        mask = None if self.mask is None else self.mask[: values.shape[1], : values.shape[1]]
        values = values + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        result: Tensor = values + self.mlp(self.ln_2(values))
        return result


class Transformer(nn.Module):
    def __init__(self, heads: int, activation: Callable[[], nn.Module], mask: Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(heads, activation, mask) for _ in range(2)))

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.resblocks(values)
        return result


class ImageTower(nn.Module):
    def __init__(self, heads: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        positions = (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH_SIZE, PATCH_SIZE, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(positions, WIDTH))
        self.ln_pre, self.transformer, self.ln_post = nn.LayerNorm(WIDTH), Transformer(heads, activation), nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBEDDING_WIDTH))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        values = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1) + self.positional_embedding
        result: Tensor = self.ln_post(self.transformer(self.ln_pre(values))[:, 0]) @ self.proj
        return result


class TextbookClip(nn.Module):
    """Image features of a batch of pixels and text features of a batch of tokens, the text read at its largest token."""

    def __init__(self, visual: nn.Module, text_heads: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.visual = visual
        mask = torch.full((CONTEXT_LENGTH, CONTEXT_LENGTH), float("-inf")).triu(1)
        self.transformer = Transformer(text_heads, activation, mask)
        self.token_embedding = nn.Embedding(VOCABULARY_SIZE, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT_LENGTH, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBEDDING_WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        values = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        values = self.ln_final(self.transformer(values))
        ends = values[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
        return self.visual(pixels), ends @ self.text_projection


def textbook_clip(
    activation: str = "quick_gelu", vision_heads: int = 2, text_heads: int = 2, resnet: bool = False
) -> TextbookClip:
    """One with weights that half precision holds exactly; the same each time."""
    kind = QuickGelu if activation == "quick_gelu" else nn.GELU
    with torch.random.fork_rng():
        torch.manual_seed(0)
        visual: nn.Module = ImageTower(vision_heads, kind)
        if resnet:
            visual = ModifiedResNet(
                ModifiedResNetConfig(image_size=IMAGE_SIZE, width=8, layers=(1, 2, 1, 1), heads=4), EMBEDDING_WIDTH
            )
        model = TextbookClip(visual, text_heads, kind).eval()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.is_floating_point() and value.numel() > 1:
                    noise = torch.randn(value.shape) * 0.1
                    value.add_(noise.abs() if name.endswith("running_var") else noise)
                    value.copy_(value.half())
    return model.requires_grad_(False)


def some_input() -> tuple[Tensor, Tensor]:
    """Normalised pixels, and tokens that end at different places."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(3, CONTEXT_LENGTH, dtype=torch.long)
    for row, length in enumerate((3, 9, CONTEXT_LENGTH - 2)):
        tokens[row, 0] = VOCABULARY_SIZE - 2
        tokens[row, 1 : length + 1] = torch.randint(VOCABULARY_SIZE - 2, (length,), generator=generator)
        tokens[row, length + 1] = VOCABULARY_SIZE - 1
    return torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator), tokens


def write_openai_archive(path: Path, *, torchscript: bool = True, resnet: bool = False, half: bool = True) -> TextbookClip:
    """Write ``path`` as OpenAI does, as TorchScript, or as a plain state dict; returns the model that it holds, in float32."""
    model = textbook_clip(resnet=resnet)
    if half:
        model = model.half()
    if torchscript:
        pixels, tokens = some_input()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is on its way out, but OpenAI's files are in it
            traced = torch.jit.trace(model.float(), (pixels, tokens), check_trace=False)
            (traced.half() if half else traced).save(str(path))
    else:
        state = model.state_dict()
        numbers = {"input_resolution": IMAGE_SIZE, "context_length": CONTEXT_LENGTH, "vocab_size": VOCABULARY_SIZE}
        torch.save({**state, **{name: torch.tensor(value) for name, value in numbers.items()}}, path)
    return model.float()


def write_open_clip(folder: Path, *, activation: str = "gelu", half: bool = False) -> TextbookClip:
    """Write an open_clip folder without a tokenizer; returns the model that it holds."""
    model = textbook_clip(activation, vision_heads=4, text_heads=4)
    folder.mkdir(exist_ok=True)
    config = json.loads(json.dumps(OPEN_CLIP_CONFIG))
    if activation == "quick_gelu":
        config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    state = {name: (value.half() if half else value).contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return model


TOKENS = {"bos_token_id": 1032, "eos_token_id": 1033, "pad_token_id": 1033}
EARLY_TOKENS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # early conversions say so and mean the last token


def write_clip(folder: Path, activation: str, tokens: dict[str, int] = TOKENS, half: bool = False) -> Any:
    """A small CLIP in the transformers format, with the bundled tokenizer; returns the model that the files hold."""
    transformers = pytest.importorskip("transformers", reason="the transformers library is for development only")
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1034,
            "max_position_embeddings": 20, "hidden_act": activation, "projection_dim": 24, **tokens,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32,
            "patch_size": 8, "hidden_act": activation, "projection_dim": 24,
        },
        projection_dim=24,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    if half:
        model.half()
    model.save_pretrained(folder)
    model.float()
    preprocess = {
        "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25], "resample": 3, "do_resize": True, "do_center_crop": True, "do_rescale": True,
        "do_normalize": True, "do_convert_rgb": True, "rescale_factor": 1 / 255,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocess))
    shutil.copy(SMALL_TOKENIZER, folder / "tokenizer.json")
    return model


def write_with_vision_transformer(folder: Path, layers: int = 2) -> None:
    """The bundled backbone's text tower beside a small vision transformer of random weights, in the package's own format."""
    bundled = load_backbone("bundled", device="cpu")
    text, _ = bundled.require_text()
    raw = json.loads((bundled_folder() / "config.json").read_text(encoding="utf-8"))
    sizes = {"image_size": 64, "patch_size": 16, "width": 32, "layers": layers, "heads": 2, "mlp_width": 64}
    vision = {"kind": "vision_transformer", **sizes, "activation": "quick_gelu", "layer_norm_epsilon": 1e-5}
    parts = {"text": raw["text"], "vision": vision, "preprocess": raw["preprocess"]}
    config = BackboneConfig.model_validate({"embedding_width": raw["embedding_width"], **parts})
    assert isinstance(config.vision, VisionTransformerConfig)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = VisionTransformer(config.vision, config.embedding_width)
        for parameter in tower.parameters():
            # Matrices keep the size of what they are given, so that pictures stay as different as they are.
            size = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.data += size * torch.randn_like(parameter)
    tokenizer = (bundled_folder() / "tokenizer.json").read_text(encoding="utf-8")
    save_folder(folder, config, {"text": text, "vision": tower}, torch.tensor(bundled.logit_scale).log(), tokenizer)
