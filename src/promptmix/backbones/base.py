"""A backbone: the frozen image and text towers, with everything needed to feed them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.configs import BackboneConfig, ModifiedResNetConfig, SiglipTextConfig, SiglipVisionConfig
from promptmix.backbones.pixels import normalise_pixels
from promptmix.backbones.siglip_text import SiglipTextTower
from promptmix.backbones.siglip_vision import SiglipVisionTower
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.backbones.vision_resnet import ModifiedResNet
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.errors import BackboneError
from promptmix.runtime import short_hash

__all__ = ["AnyTextTower", "AnyVisionTower", "Backbone", "build_text_tower", "build_vision_tower"]

AnyTextTower = TextTower | SiglipTextTower
AnyVisionTower = VisionTransformer | ModifiedResNet | SiglipVisionTower


def build_text_tower(config: BackboneConfig) -> AnyTextTower:
    """A text tower with untrained weights, of the kind that the config names."""
    if isinstance(config.text, SiglipTextConfig):
        return SiglipTextTower(config.text, config.embedding_width)
    return TextTower(config.text, config.embedding_width)


def build_vision_tower(config: BackboneConfig) -> AnyVisionTower:
    """An image tower with untrained weights, of the kind that the config names."""
    if isinstance(config.vision, SiglipVisionConfig):
        return SiglipVisionTower(config.vision)
    if isinstance(config.vision, ModifiedResNetConfig):
        return ModifiedResNet(config.vision, config.embedding_width)
    return VisionTransformer(config.vision, config.embedding_width)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Frozen towers in evaluation mode.

    Attributes:
        name: under which it is found again: ``"bundled"``, a folder, an archive, or ``owner/name@commit`` on the hub.
        fingerprint: short hash of the weights and of the pre-processing, the same in every precision.
        logit_scale: the factor s = exp(logit_scale) of the cosines.
        logit_bias: what SigLIP adds to s times the cosine before its sigmoid; None for CLIP. A softmax over classes does not
            notice it, so no method uses it.
        vision, text: the towers; None where only the other one was asked for.
        vision_prompts: learnt tokens that the first blocks of a vision transformer see beside the patches, a table a block.
    """

    name: str
    fingerprint: str
    config: BackboneConfig
    logit_scale: float
    tokenizer: Tokenizer | None
    vision: AnyVisionTower | None
    text: AnyTextTower | None
    logit_bias: float | None = None
    vision_prompts: tuple[Float[Tensor, "prompt width"], ...] = ()

    @property
    def device(self) -> torch.device:
        tower = self.vision if self.vision is not None else self.text
        return torch.device("cpu") if tower is None else next(tower.parameters()).device

    def encode_pixels(self, pixels: UInt8[Tensor, "image height width 3"]) -> Float[Tensor, "image embedding"]:
        """Normalised features of resized and cropped pictures; keeps the graph where the tower is being tuned."""
        if self.vision is None:
            raise BackboneError(f"backbone {self.name} was loaded without its image tower")
        inputs = normalise_pixels(pixels.to(self.device), self.config.preprocess)
        inputs = inputs.to(self._vision_dtype)
        if self.vision_prompts:
            assert isinstance(self.vision, VisionTransformer)
            features = self.vision(inputs, self.vision_prompts)
        else:
            features = self.vision(inputs)
        return functional.normalize(features.float(), dim=-1)

    def to(self, device: torch.device) -> Backbone:
        """This backbone with its towers moved to a device."""
        for tower in (self.vision, self.text):
            if tower is not None:
                tower.to(device)
        return self

    def in_precision(self, dtype: torch.dtype) -> Backbone:
        """This backbone with its towers' weights in ``dtype``.

        In half precision (fp16) only the image tower: gradients through a text tower of that precision would vanish, so the text
        tower stays in float32.
        """
        if self.vision is not None:
            self.vision.to(dtype)
        if self.text is not None:
            self.text.to(torch.float32 if dtype == torch.float16 else dtype)
        return self

    @property
    def _vision_dtype(self) -> torch.dtype:
        return torch.float32 if self.vision is None else next(self.vision.parameters()).dtype

    @property
    def precision(self) -> str:
        """What the image tower calculates in: ``fp32``, ``bf16`` or ``fp16``."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self._vision_dtype, "fp32")

    @property
    def features_key(self) -> str:
        """Equal keys give equal image features: the fingerprint, the precision where it is not float32, and the kind of device where
        it is not the CPU, because each kind rounds in its own way."""
        dtype, kind = self._vision_dtype, self.device.type
        parts = [] if dtype == torch.float32 else [str(dtype)]
        parts += [] if kind == "cpu" else [kind]
        return short_hash(self.fingerprint, *parts) if parts else self.fingerprint

    def with_block_norms(self, norms: Mapping[str, Tensor]) -> Backbone:
        """A backbone whose image tower is a copy with these layer-norm weights; the fingerprint says so.

        Args:
            norms: values by parameter name in the image tower, such as ``blocks.0.mlp_norm.weight``.

        Raises:
            BackboneError: the image tower has no such norm, or one of another shape.
        """
        if not isinstance(self.vision, VisionTransformer | SiglipVisionTower):
            raise BackboneError(f"backbone {self.name} has no vision transformer, so no block norms to tune")
        tower = copy.deepcopy(self.vision)
        places = {f"{name}.{leaf}": p for name, norm in tower.block_norms().items() for leaf, p in norm.named_parameters()}
        for name, value in norms.items():
            if name not in places or places[name].shape != value.shape:
                raise BackboneError(f"backbone {self.name} has no layer norm {name} of shape {tuple(value.shape)}")
            places[name].data.copy_(value)
        return replace(self, vision=tower, fingerprint=self.fingerprint_with(norms))

    def with_vision_prompts(self, prompts: Sequence[Float[Tensor, "prompt width"]]) -> Backbone:
        """A backbone whose image tower sees learnt tokens, a table for each of its first blocks; the fingerprint says so.

        Raises:
            BackboneError: the image tower is not CLIP's vision transformer, or of another width, or has fewer blocks.
        """
        if not isinstance(self.vision, VisionTransformer):
            raise BackboneError(f"backbone {self.name} has no CLIP vision transformer, so no place for prompts among the patches")
        width, layers = self.vision.config.width, self.vision.config.layers
        if len(prompts) > layers or any(table.shape[1:] != (width,) for table in prompts):
            shapes = ", ".join(str(tuple(table.shape)) for table in prompts)
            raise BackboneError(f"prompts of {shapes} do not fit {layers} blocks of width {width} of backbone {self.name}")
        named = {f"vision_prompts.{place}": table for place, table in enumerate(prompts)}
        kept = tuple(table.detach().to(self.device) for table in prompts)
        return replace(self, vision_prompts=kept, fingerprint=self.fingerprint_with(named))

    def fingerprint_with(self, changes: Mapping[str, Tensor]) -> str:
        """The fingerprint of this backbone with some tensors changed, by their names."""
        parts = [part for name in sorted(changes) for part in (name, changes[name].detach().cpu().numpy().tobytes())]
        return short_hash(self.fingerprint, *parts)

    def require_text(self) -> tuple[AnyTextTower, Tokenizer]:
        """The text tower and its tokenizer.

        Raises:
            BackboneError: the backbone was loaded for pictures only.
        """
        if self.text is None or self.tokenizer is None:
            raise BackboneError(f"backbone {self.name} was loaded without its text tower")
        return self.text, self.tokenizer
