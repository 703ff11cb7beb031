"""What a backbone's files say about it: sizes, activation, special tokens, pre-processing. Nothing here is guessed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "BackboneConfig",
    "ModifiedResNetConfig",
    "PreprocessConfig",
    "TextConfig",
    "VisionTransformerConfig",
]

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
_Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextConfig(_Strict):
    """Sizes of the text tower and its special tokens."""

    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    context_length: int = Field(gt=2)
    vocabulary_size: int = Field(gt=2)
    activation: Activation
    layer_norm_epsilon: float = Field(gt=0)
    start_token: int = Field(ge=0)
    end_token: int = Field(ge=0)


class VisionTransformerConfig(_Strict):
    """Sizes of a vision transformer."""

    kind: Literal["vision_transformer"] = "vision_transformer"
    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    activation: Activation
    layer_norm_epsilon: float = Field(gt=0)


class ModifiedResNetConfig(_Strict):
    """Sizes of a ModifiedResNet; ``layers`` counts the blocks of its four stages."""

    kind: Literal["modified_resnet"] = "modified_resnet"
    image_size: int = Field(gt=0, multiple_of=32)
    width: int = Field(gt=0)
    layers: tuple[int, int, int, int]
    heads: int = Field(gt=0)


class PreprocessConfig(_Strict):
    """From a picture to the tower's input: bicubic resize of the short side, centre crop, normalise each channel."""

    resize: int = Field(gt=0)
    crop: int = Field(gt=0)
    mean: tuple[float, float, float]
    standard_deviation: tuple[_Positive, _Positive, _Positive]


class BackboneConfig(_Strict):
    """A whole backbone. ``embedding_width`` is the width D of the joint space."""

    embedding_width: int = Field(gt=0)
    text: TextConfig
    vision: VisionTransformerConfig | ModifiedResNetConfig = Field(discriminator="kind")
    preprocess: PreprocessConfig

    @model_validator(mode="after")
    def _check_sizes(self) -> BackboneConfig:
        if self.preprocess.crop != self.vision.image_size:
            raise ValueError(
                f"pictures are cropped to {self.preprocess.crop} pixels, but the image tower takes {self.vision.image_size}"
            )
        for tower, part in (("text", self.text), ("vision", self.vision)):
            if isinstance(part, TextConfig | VisionTransformerConfig) and part.width % part.heads:
                raise ValueError(f"{tower}.width is {part.width}, which does not divide by {part.heads} heads")
        return self
