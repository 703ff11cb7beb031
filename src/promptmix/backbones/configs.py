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


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _TextSizes(_Strict):
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    context_length: int = Field(gt=2)
    vocabulary_size: int = Field(gt=2)
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
    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
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
    image_size: int = Field(gt=0, multiple_of=32)
    width: int = Field(gt=0)
    layers: tuple[int, int, int, int]
    heads: int = Field(gt=0)


class PreprocessConfig(_Strict):
    """From a picture to the tower's input: resize, centre crop, normalise each channel.

    ``resize_mode`` says what ``resize`` is: the length of the short side (``short_side``), or of both (``squash``), whatever that
    does to the picture's proportions; then there is nothing to crop.
    """

    resize: int = Field(gt=0)
    crop: int = Field(gt=0)
    mean: tuple[float, float, float]
    standard_deviation: tuple[_Positive, _Positive, _Positive]
    resize_mode: Literal["short_side", "squash"] = "short_side"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    @model_validator(mode="after")
    def _check_crop(self) -> PreprocessConfig:
        if self.resize_mode == "squash" and self.resize != self.crop:
            raise ValueError(
                f"resize_mode squash makes pictures of {self.resize} pixels, but crop is {self.crop}; make them equal"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Files, and fingerprints, of backbones that need neither are those of the time when there was no choice."""
        usual = {"resize_mode": "short_side", "interpolation": "bicubic"}
        return {name: value for name, value in write(self).items() if usual.get(name) != value}


class BackboneConfig(_Strict):
    """A whole backbone. ``embedding_width`` is the width D of the joint space."""

    embedding_width: int = Field(gt=0)
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
