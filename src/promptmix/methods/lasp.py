"""LASP, one soft prompt told from the other classes by many hand-written ones (arXiv 2210.01115)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.layer_norms import TunesBlockNorms
from promptmix.methods.one_prompt import OnePrompt, OnePromptConfig
from promptmix.nn.losses import text_loss
from promptmix.prompts.encoder import Prompts
from promptmix.prompts.hard import encode_templates
from promptmix.prompts.templates import flat_templates
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput

__all__ = ["Lasp", "LaspConfig"]


class LaspConfig(OnePromptConfig):
    """Options of LASP; the defaults are the paper's method with the image tower frozen, ``preset: as_released`` the published code."""

    context_tokens: int = Field(default=4, ge=1, le=64, description="vectors of a random start, for words=null")
    words: str | None = Field(default="a photo of a", max_length=300)
    bank: str = Field(default="lasp", description="the references' templates: a template bank by name, or a YAML file")
    templates: tuple[str, ...] | None = Field(default=None, min_length=1, description="templates written out, instead of a bank")
    text_weight: float = Field(default=5.0, ge=0)
    text_direction: Literal["references", "prompts"] = Field(
        default="references", description="what the text loss's softmax runs over"
    )
    text_temperature: Annotated[float, Field(gt=0)] | Literal["logit_scale"] = Field(
        default="logit_scale", description="factor of the text loss's cosines"
    )
    text_classes: Literal["train", "all"] = Field(default="train", description="class names that the text loss may use")
    noise_deviation: float = Field(default=0.0, ge=0, description="of the noise on the references; 0: none")
    noise_probability: float = Field(default=0.5, ge=0, le=1, description="of the noise, at each step")
    visual_layer_norms: bool = Field(default=False, description="tune the image tower's layer norms, at a tenth of the rate")

    def stands_for(self) -> str:
        return "" if self.templates is not None else repr([template.text for template in flat_templates(self.bank, None)])


class Lasp(TunesBlockNorms, OnePrompt):
    """CoOp with a shared correction of the class features, and a second loss: text against text.

    With t[c] = normalise(text(context, c) + w), w learnt and started at 0, and references r[l,c], the normalised features of class c
    in the words of template l: loss = cross-entropy of the cosines times exp(logit_scale) + ``text_weight`` * the mean over templates
    and classes of the cross-entropy of ``text_temperature * <t[c], r[l,.]>`` against c.

    With ``text_classes: all`` (LASP-V in the paper) the classes of the text loss are all whose names are known, with pictures or
    without. With ``noise_deviation`` the references of a step are, with ``noise_probability``, moved by normal noise.

    Differences from the paper and the reference code (all are options, which ``preset: as_released`` sets to what the
    reference code does):

    - the text loss's softmax runs over the references for each learnt prompt, as in the paper; in the reference it runs over
      the learnt prompts for each reference;
    - text loss over the training classes' names; the reference uses the names of new classes as well;
    - no noise; the reference adds some of deviation 0.05 at about half of the steps, which the paper does not mention;
    - the image tower is frozen, so that image features are cached; the reference tunes its layer norms.

    Besides, the correction has the width of the joint space; in the reference that of the text tower, which fails where they differ.
    The context has as many vectors as ``words`` have tokens, where the reference counts words.
    """

    name = "lasp"
    config_class: ClassVar[type[MethodConfig]] = LaspConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {
            "text_direction": "prompts",
            "text_classes": "all",
            "noise_deviation": 0.05,
            "visual_layer_norms": True,
        },
    }

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, LaspConfig)
        self._config, self._seed = config, seed
        self._templates = flat_templates(config.bank, config.templates)
        self.correction = nn.Parameter(torch.zeros(backbone.config.embedding_width))
        if config.visual_layer_norms:
            self._free_block_norms()

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.032, epochs=50, warmup_epochs=5, clip=1.0)

    @property
    def text_encodings_per_step(self) -> int:
        more = self._packed_for_text_loss.num_rows if self._uses_more_classes else 0
        return self._packed.num_rows + more

    @property
    def text_references_per_step(self) -> int:
        return len(self._templates) * len(self._supervised_names) if self._config.text_weight > 0 else 0

    def saved_options(self) -> dict[str, Any]:
        # The templates belong to the model: a bank may change.
        return {**super().saved_options(), "templates": [template.text for template in self._templates], "bank": "lasp"}

    def notes(self) -> list[str]:
        return ["the text loss used the names of classes without pictures"] if self._uses_more_classes else []

    @property
    def _uses_more_classes(self) -> bool:
        config = self._config
        return config.text_classes == "all" and config.text_weight > 0 and len(self.more_class_names) > 0

    @property
    def _supervised_names(self) -> tuple[str, ...]:
        return self.class_names + (self.more_class_names if self._uses_more_classes else ())

    @functools.cached_property
    def _packed_for_text_loss(self) -> Prompts:
        """The soft prompts of the classes without pictures, for ``text_classes: all``."""
        return self._prompt.lay_out(self.more_class_names)

    @functools.cached_property
    def _references(self) -> Float[Tensor, "template all_classes embedding"]:
        """Of the classes that the text loss uses."""
        tower, tokenizer = self._backbone.require_text()
        return encode_templates(tower, tokenizer, self._templates, self._supervised_names)

    def _noise(self, number: int) -> Float[Tensor, "template all_classes embedding"] | None:
        """What moves the references at step ``number``, where something does. It goes by the names, whatever their order."""
        deviation, probability = self._config.noise_deviation, self._config.noise_probability
        generator = torch_generator(self._seed, f"lasp noise of step {number}")
        if deviation == 0 or float(torch.rand((), generator=generator)) >= probability:
            return None
        by_name = torch.randn(self._references.shape, generator=generator).to(self._references.device)
        place = {name: number for number, name in enumerate(sorted(self._supervised_names))}
        return deviation * by_name[:, [place[name] for name in self._supervised_names]]

    def _encode(self, packed: Prompts) -> Float[Tensor, "class embedding"]:
        return functional.normalize(packed.encode(self.context) + self.correction, dim=-1)

    def training_step(self, batch: Batch) -> StepOutput:
        config = self._config
        features = self._encode(self._packed)
        logits = self._logits(batch.image_features, features)
        terms = {"classification": functional.cross_entropy(logits, batch.labels)}
        if config.text_weight > 0:
            supervised, references = features, self._references
            if self._uses_more_classes:
                supervised = torch.cat([features, self._encode(self._packed_for_text_loss)])
            noise = self._noise(batch.number)
            if noise is not None:
                references = references + noise
            temperature = self._backbone.logit_scale if config.text_temperature == "logit_scale" else config.text_temperature
            # The learnt prompt stands against each template's references in turn, as experts do against their own group's.
            against_each = supervised.expand(len(references), -1, -1)
            direction: Literal["prototypes", "prompts"] = "prompts" if config.text_direction == "prompts" else "prototypes"
            terms["text"] = config.text_weight * text_loss(against_each, references, temperature, direction)
        return StepOutput(loss=torch.stack(list(terms.values())).sum(), logits=logits, terms=terms)
