"""What the methods share that put learnt vectors into the blocks of both towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.distributed.rows import Share
from promptmix.errors import ConfigError
from promptmix.methods.base import Method, MethodConfig
from promptmix.methods.layer_norms import require_float32
from promptmix.nn.classifier import Classifier
from promptmix.prompts.assemble import embeddings_to_learn
from promptmix.prompts.encoder import PackedPrompts
from promptmix.prompts.soft_prompt import SoftPrompt
from promptmix.runtime import torch_generator

__all__ = ["DeepPrompts", "random_prompts", "require_clip_transformers"]

_DEVIATION = 0.02  # of a random start


def require_clip_transformers(backbone: Backbone, method: str) -> tuple[TextTower, Tokenizer, VisionTransformer]:
    """The towers of a backbone that take learnt vectors in every block, and the tokenizer.

    Raises:
        ConfigError: a tower is of another kind than CLIP's transformers, or not in float32.
    """
    text, tokenizer = backbone.require_text()
    if not isinstance(text, TextTower) or not isinstance(backbone.vision, VisionTransformer):
        raise ConfigError(
            f"method {method} puts prompts into the blocks of CLIP's text tower and vision transformer, which backbone"
            f" {backbone.name} does not have; give a CLIP with a vision transformer, or use coop or mocoop, which work with any"
        )
    require_float32(backbone.vision, f"method {method} takes gradients through the image tower")
    return text, tokenizer, backbone.vision


def random_prompts(seed: int, purpose: str, *shape: int) -> Tensor:
    """A random start: independent normal numbers with a standard deviation of 0.02."""
    return _DEVIATION * torch.randn(*shape, generator=torch_generator(seed, purpose))


class DeepPrompts(Method):
    """Base of the methods with learnt vectors in the blocks of both towers.

    In the text tower one context for all classes, ``[start] context  further words  class name . [end]``, whose states before the
    second block, the third and so on are replaced. What the image tower sees is the subclass's.

    Args:
        config, backbone, class_names, seed, more_class_names: as for every method.
        num_vectors: length of the context.
        words: what it starts from; words beyond its length stay as fixed tokens. None: a random start, and no further words.
        deep_blocks: blocks behind the first for which there are vectors.

    Raises:
        ConfigError: the backbone's towers are not CLIP's transformers in float32, or the words have fewer tokens than the context.
    """

    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "by gradient"

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int,
        more_class_names: Sequence[str],
        num_vectors: int,
        words: str | None,
        deep_blocks: int,
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        tower, tokenizer, _ = require_clip_transformers(backbone, self.name)
        width, tokens = tower.config.width, () if words is None else tokenizer.encode(words)
        if words is None:
            start = random_prompts(seed, f"{self.name} context", num_vectors, width)
        elif len(tokens) < num_vectors:
            raise ConfigError(
                f"option words={words!r} has {len(tokens)} tokens, too few for {num_vectors} context vectors; give more words or"
                " fewer vectors, or set words=null for a random start"
            )
        else:
            start = embeddings_to_learn(tower, tokens[:num_vectors])
        deep = random_prompts(seed, f"{self.name} deep contexts", deep_blocks, num_vectors, width)
        self.context = nn.Parameter(start)
        self.deep_contexts = nn.Parameter(deep) if deep_blocks > 0 else None
        self._prompt = SoftPrompt(tower, tokenizer, num_vectors, further_tokens=tokens[num_vectors:])
        self._packed = self._lay_out(class_names)

    @classmethod
    def vision_prompts_of(cls, learnt: Mapping[str, Tensor]) -> Float[Tensor, "block token width"]:
        """What stands behind the patches before each of the image tower's first blocks, from all that was learnt."""
        raise NotImplementedError

    @property
    def tunes_image_tower(self) -> bool:
        return True

    def encode_training_pixels(
        self, pixels: UInt8[Tensor, "image height width 3"], number: int, share: Share | None = None
    ) -> Float[Tensor, "image embedding"]:
        return self._prompted.encode_pixels(pixels)

    @property
    def _prompted(self) -> Backbone:
        """The backbone with the prompts of this moment and their graph."""
        prompts = self.vision_prompts_of(dict(self.named_parameters()))
        return dataclasses.replace(self._backbone, vision_prompts=tuple(prompts))

    @classmethod
    def tuned_backbone(cls, backbone: Backbone, options: Mapping[str, Any], learnt: Mapping[str, Tensor]) -> Backbone:
        return backbone.with_vision_prompts(list(cls.vision_prompts_of(learnt)))

    @property
    def text_encodings_per_step(self) -> int:
        return self._packed.num_rows

    def _lay_out(self, class_names: Sequence[str]) -> PackedPrompts:
        laid_out = self._prompt.lay_out(class_names)
        assert isinstance(laid_out, PackedPrompts)
        return laid_out

    def _encode(self, packed: PackedPrompts) -> Float[Tensor, "class embedding"]:
        """Normalised class features, with a graph."""
        return functional.normalize(packed.encode(self.context, self.deep_contexts), dim=-1)

    @torch.no_grad()
    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        return self._encode(self._packed if tuple(class_names) == self.class_names else self._lay_out(class_names))[None]

    def classifier(self) -> Classifier:
        return Classifier(class_features=self.encode_classes(self.class_names), scale=self._backbone.logit_scale)
