"""What a backbone's files say about it: sizes, activation, special tokens, pre-processing. Nothing here is guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

__all__ = [
    "AnyTextConfig",
    "BackboneConfig",
    "ModifiedResNetConfig",
    "PreprocessConfig",
    "SiglipTextConfig",
    "SiglipVisionConfig",
    "TextConfig",
    "VisionTransformerConfig",
]

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
_Positive = Annotated[float, Field(gt=0)]


# Ten times what any published tower has, so that a damaged file is told as one and does not fill the memory first.
_Width = Annotated[int, Field(gt=0, le=65_536)]
_Layers = Annotated[int, Field(gt=0, le=1_000)]
_Heads = Annotated[int, Field(gt=0, le=4_096)]
_MlpWidth = Annotated[int, Field(gt=0, le=1_000_000)]
_Pixels = Annotated[int, Field(gt=0, le=4_096)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_truth_values_as_numbers(cls, fields: Any) -> Any:
        for name, value in fields.items() if isinstance(fields, dict) else ():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name} is {value}, not a number")
        return fields


class _TextSizes(_Strict):
    width: _Width
    layers: _Layers
    heads: _Heads
    mlp_width: _MlpWidth
    context_length: int = Field(gt=2, le=65_536)
    vocabulary_size: int = Field(gt=2, le=10_000_000)
    activation: Activation
    layer_norm_epsilon: float = Field(gt=0)


class TextConfig(_TextSizes):
    """Sizes of CLIP's text tower and its special tokens."""

    # Not written: the files, and the fingerprints, are those of the time when there was no other kind.
    kind: Literal["clip"] = Field(default="clip", exclude=True)
    start_token: int = Field(ge=0)
    end_token: int = Field(ge=0)


class SiglipTextConfig(_TextSizes):
    """Sizes of SigLIP's text tower, its special tokens, and what is done to a text before its tokenizer sees it.

    Every text is ``context_length`` tokens long: its own, the end token, then pad tokens. There is no start token.
    """

    kind: Literal["siglip"] = "siglip"
    end_token: int = Field(ge=0)
    pad_token: int = Field(ge=0)
    lower_case: bool
    remove_punctuation: bool


def _text_config_of_its_kind(value: Any) -> Any:
    """Read the fields as the one class they name, so that errors are about that one; without a kind they are CLIP's."""
    if not isinstance(value, dict):
        return value
    return (SiglipTextConfig if value.get("kind") == "siglip" else TextConfig).model_validate(value)


AnyTextConfig = TextConfig | SiglipTextConfig


class _VisionTransformerSizes(_Strict):
    kind: str
    image_size: _Pixels
    patch_size: _Pixels
    width: _Width
    layers: _Layers
    heads: _Heads
    mlp_width: _MlpWidth
    activation: Activation
    layer_norm_epsilon: float = Field(gt=0)


class VisionTransformerConfig(_VisionTransformerSizes):
    """Sizes of CLIP's vision transformer."""

    kind: Literal["vision_transformer"] = "vision_transformer"


class SiglipVisionConfig(_VisionTransformerSizes):
    """Sizes of SigLIP's vision transformer, whose width is that of the joint space."""

    kind: Literal["siglip"] = "siglip"


class ModifiedResNetConfig(_Strict):
    """Sizes of a ModifiedResNet; ``layers`` counts the blocks of its four stages."""

    kind: Literal["modified_resnet"] = "modified_resnet"
    image_size: int = Field(gt=0, le=4_096, multiple_of=32)
    width: _Width
    layers: tuple[_Layers, _Layers, _Layers, _Layers]
    heads: _Heads


class PreprocessConfig(_Strict):
    """From a picture to the tower's input: resize, centre crop, normalise each channel.

    ``resize_mode`` says what ``resize`` is: the length of the short side (``short_side``), or of both (``squash``), whatever that
    does to the picture's proportions; then there is nothing to crop. ``crop_rounding`` says where the crop begins when an odd number
    of pixels is too much: rounded down, as transformers does, or to the nearest even number, as OpenAI and open_clip do.
    """

    resize: _Pixels
    crop: _Pixels
    mean: tuple[float, float, float]
    standard_deviation: tuple[_Positive, _Positive, _Positive]
    resize_mode: Literal["short_side", "squash"] = "short_side"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_rounding: Literal["down", "nearest"] = "down"

    @model_validator(mode="after")
    def _check_crop(self) -> PreprocessConfig:
        if self.resize_mode == "short_side" and self.resize < self.crop:
            raise ValueError(f"the short side is resized to {self.resize} pixels, of which {self.crop} cannot be cut")
        if self.resize_mode == "squash" and self.resize != self.crop:
            raise ValueError(
                f"resize_mode squash makes pictures of {self.resize} pixels, but crop is {self.crop}; make them equal"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Files, and fingerprints, of backbones that need none of these are those of the time when there was no choice."""
        usual = {"resize_mode": "short_side", "interpolation": "bicubic", "crop_rounding": "down"}
        return {name: value for name, value in write(self).items() if usual.get(name) != value}


class BackboneConfig(_Strict):
    """A whole backbone. ``embedding_width`` is the width D of the joint space."""

    embedding_width: _Width
    text: Annotated[AnyTextConfig, BeforeValidator(_text_config_of_its_kind)]
    vision: VisionTransformerConfig | ModifiedResNetConfig | SiglipVisionConfig = Field(discriminator="kind")
    preprocess: PreprocessConfig

    @model_validator(mode="after")
    def _check_sizes(self) -> BackboneConfig:
        if self.preprocess.crop != self.vision.image_size:
            raise ValueError(
                f"pictures are cropped to {self.preprocess.crop} pixels, but the image tower takes {self.vision.image_size}"
            )
        for tower, part in (("text", self.text), ("vision", self.vision)):
            if not isinstance(part, ModifiedResNetConfig) and part.width % part.heads:
                raise ValueError(f"{tower}.width is {part.width}, which does not divide by {part.heads} heads")
        if isinstance(self.vision, SiglipVisionConfig) and self.vision.width != self.embedding_width:
            raise ValueError(
                f"embedding_width is {self.embedding_width}, but the image tower, which has no projection, makes {self.vision.width}"
            )
        if isinstance(self.text, SiglipTextConfig) and max(self.text.end_token, self.text.pad_token) >= self.text.vocabulary_size:
            raise ValueError(
                f"text.end_token {self.text.end_token} or text.pad_token {self.text.pad_token} is beyond the vocabulary of"
                f" {self.text.vocabulary_size} tokens"
            )
        return self
