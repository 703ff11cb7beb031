"""Zero-shot classification with hard prompts (CLIP, arXiv 2103.00020): one template, or the ensemble of a bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.methods.base import Method, MethodConfig
from promptmix.nn.classifier import Classifier
from promptmix.prompts.hard import ensemble_features
from promptmix.prompts.templates import Template, flat_templates, load_bank, parse_template

__all__ = ["Ensemble", "EnsembleConfig", "ZeroShot", "ZeroShotConfig"]


class ZeroShotConfig(MethodConfig):
    """Options of zero-shot classification."""

    template: str = "a photo of a {}."


class EnsembleConfig(MethodConfig):
    """Options of the ensemble: all templates of a bank, by name or from a YAML file."""

    bank: str = "general"
    templates: tuple[str, ...] | None = Field(default=None, min_length=1, description="templates written out, instead of a bank")

    def stands_for(self) -> str:
        if self.templates is not None:
            return ""
        return repr([[template.text for template in group.templates] for group in load_bank(self.bank)])


class ZeroShot(Method):
    """Class features from one template; nothing is learnt.

    Differences from the paper and the reference code: none.
    """

    name = "zero-shot"
    config_class: ClassVar[type[MethodConfig]] = ZeroShotConfig
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "nothing"

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        self._templates = self._choose_templates(config)

    @staticmethod
    def _choose_templates(config: MethodConfig) -> list[Template]:
        assert isinstance(config, ZeroShotConfig)
        return [parse_template(config.template)]

    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        tower, tokenizer = self._backbone.require_text()
        return ensemble_features(tower, tokenizer, self._templates, class_names)[None]

    def classifier(self) -> Classifier:
        return Classifier(class_features=self.encode_classes(self.class_names), scale=self._backbone.logit_scale)


class Ensemble(ZeroShot):
    """Class features averaged over all templates of a bank, each normalised before and the mean after.

    Differences from the paper and the reference code: none; the reference's 80 templates for ImageNet are one possible bank.
    """

    name = "ensemble"
    config_class: ClassVar[type[MethodConfig]] = EnsembleConfig

    @staticmethod
    def _choose_templates(config: MethodConfig) -> list[Template]:
        assert isinstance(config, EnsembleConfig)
        return flat_templates(config.bank, config.templates)

    def saved_options(self) -> dict[str, Any]:
        return {"templates": [template.text for template in self._templates]}
