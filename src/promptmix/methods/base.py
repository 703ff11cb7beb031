"""What every method is: parameters it declares, one training step, and a classifier at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from promptmix.backbones.base import Backbone
from promptmix.config import StrictModel, parse_config
from promptmix.distributed.rows import Share
from promptmix.errors import CheckpointError, ConfigError, did_you_mean
from promptmix.nn.classifier import AnyClassifier, Classifier
from promptmix.structs import Batch, StepOutput

__all__ = ["Method", "MethodConfig", "Recipe"]


class Recipe(StrictModel):
    """How a method is trained: the field's standard, with each method's own rate and length.

    By ``epoch`` the rate of epoch e is ``warmup_rate`` while e < ``warmup_epochs``, then ``rate / 2 * (1 + cos(pi * (e -
    warmup_epochs) / epochs))``: constant within an epoch, and never quite 0 at the end. By ``step`` the cosine falls from step to
    step, from ``rate`` to ``final_rate``, and there is no warm-up.
    """

    epochs: int = Field(default=50, ge=1, le=100_000)
    steps: int | None = Field(default=None, ge=1, le=100_000_000, description="length in steps; where given, epochs do not count")
    rate: float = Field(default=0.002, gt=0, le=100)
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    warmup_epochs: int = Field(default=1, ge=0)
    warmup_rate: float = Field(default=1e-5, ge=0)
    schedule: Literal["epoch", "step"] = "epoch"
    final_rate: float = Field(default=0.0, ge=0, description="where the cosine by step ends")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    epsilon: float = Field(default=1e-8, gt=0, description="of AdamW")
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    clip: float | None = Field(default=None, gt=0, description="largest norm of the whole gradient")
    averaging: Literal["none", "second_half", "gaussian"] = Field(
        default="none",
        description="take the last epoch's parameters, or their mean over the second half of the epochs, or one weighted by a normal"
        " density over the epochs",
    )
    averaging_mean: float = Field(default=15.0, description="of the normal density, in epochs counted from 1")
    averaging_deviation: float = Field(default=1.0, gt=0, description="of the normal density, in epochs")

    @model_validator(mode="after")
    def _a_length_in_steps_has_a_rate_by_step(self) -> Recipe:
        if self.steps is not None and self.schedule != "step":
            raise ValueError("a length in steps needs schedule=step; give epochs, or set schedule=step")
        return self


class MethodConfig(StrictModel):
    """Base of the methods' options."""

    def stands_for(self) -> str:
        """What the options name but do not hold, such as the templates of a bank: it belongs to the identity of a run."""
        return ""


class Method(nn.Module):
    """Base of all methods. One is made for a backbone and a list of class names, and belongs to them.

    Subclasses register exactly what they learn as parameters (or, when fitted in closed form, as persistent buffers): all else
    is frozen, out of the optimizer and out of the checkpoint.

    Args:
        config: the method's own options.
        backbone: with its text tower.
        class_names: the classes to tell apart, in the order of the labels.
        seed: of every random start.
        more_class_names: names known but without pictures, for options that use them and say so.

    Raises:
        ConfigError: fewer than two classes.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[MethodConfig]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]]
    learns_from_views: ClassVar[bool] = False
    """Whether what is fitted in closed form uses augmented views too; what learns by gradient does in any case."""
    needs_text_to_predict: ClassVar[bool] = False
    """Whether class features depend on the picture: then a saved model has none, and prediction needs the text tower."""

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if len(class_names) < 2:
            raise ConfigError(f"there is nothing to tell apart: {len(class_names)} class; give at least two")
        self.class_names = tuple(class_names)
        self.more_class_names = tuple(more_class_names)
        self.config = config
        self._backbone = backbone

    @classmethod
    def parse_options(cls, options: Mapping[str, Any]) -> MethodConfig:
        """The method's config from plain options; ``preset: NAME`` fills in what the other options leave open.

        Raises:
            ConfigError: an unknown preset, or options that do not validate.
        """
        given = dict(options)
        preset = given.pop("preset", None)
        if preset is not None:
            if not isinstance(preset, str) or preset not in cls.presets:
                hint = did_you_mean(str(preset), cls.presets) if cls.presets else "; it has none"
                raise ConfigError(f"method {cls.name} has no preset {preset!r}{hint}")
            given = {**cls.presets[preset], **given}
        return parse_config(cls.config_class, given, f"options of method {cls.name}")

    @classmethod
    def open_options(cls, config: MethodConfig) -> list[dict[str, Any]]:
        """What to choose among on held-out shots, simplest first, where the options leave something open; else nothing."""
        return []

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        """How the method is trained unless told otherwise; ``shots`` is None when all pictures are used."""
        return Recipe()

    @classmethod
    def recipe_for(cls, shots: int | None, changes: Mapping[str, Any]) -> Recipe:
        """The method's recipe with some numbers changed.

        A warm-up that is not among them is at most an eighth of the epochs, so that a short run learns too.

        Raises:
            ConfigError: a number is out of its range, or the warm-up takes all epochs, so that nothing would be learnt.
        """
        default = cls.default_recipe(shots).model_dump()
        if "epochs" in changes:
            default["steps"] = None
        recipe = parse_config(Recipe, {**default, **changes}, "recipe")
        if recipe.schedule == "step":
            return recipe
        if "warmup_epochs" not in changes:
            longest = 0 if recipe.epochs == 1 else max(1, recipe.epochs // 8)
            return recipe.model_copy(update={"warmup_epochs": min(recipe.warmup_epochs, longest)})
        if recipe.warmup_epochs >= recipe.epochs:
            raise ConfigError(
                f"recipe: warmup_epochs is {recipe.warmup_epochs} of {recipe.epochs} epochs, so nothing would be learnt; lower it"
            )
        return recipe

    @property
    def backbone(self) -> Backbone:
        """The backbone whose image features belong to this method: as given, or with the image tower as tuned so far."""
        if not self.tunes_image_tower:
            return self._backbone
        return self.tuned_backbone(self._backbone, self.saved_options(), self.learnt_state())

    @property
    def tunes_image_tower(self) -> bool:
        """Whether training changes the image tower, so that no image feature may come from a cache."""
        return False

    @property
    def needs_frozen_features(self) -> bool:
        """Whether a batch must hold the features of the untouched image tower too."""
        return False

    def encode_training_pixels(
        self, pixels: UInt8[Tensor, "image height width 3"], number: int, share: Share | None = None
    ) -> Float[Tensor, "image embedding"]:
        """Normalised features of the pictures of step ``number``, with a graph where the image tower is being tuned.

        Args:
            share: which of the step's pictures these are, where others encode the rest; None: all of them.
        """
        return self._backbone.encode_pixels(pixels)

    @classmethod
    def tuned_backbone(cls, backbone: Backbone, options: Mapping[str, Any], learnt: Mapping[str, Tensor]) -> Backbone:
        """The backbone whose image features belong to a saved model: as given, or with its image tower as the method tuned it.

        Its fingerprint follows what was learnt. It is asked for without the text tower, to predict.

        Args:
            options: as saved. learnt: the saved parameters.
        """
        return backbone

    @property
    def expert_names(self) -> tuple[str, ...]:
        """How people see the experts, in order."""
        return (self.name,)

    def saved_options(self) -> dict[str, Any]:
        """Options from which the method can be made again, anywhere: what a file or a search gave is written out."""
        return self.config.model_dump(mode="json")

    @classmethod
    def options_as_learnt(cls, options: Mapping[str, Any], learnt: Mapping[str, Tensor]) -> dict[str, Any]:
        """Options that learn anew with what the method itself had chosen while learning, so that logits are of the same kind.

        Args:
            options: as saved. learnt: the saved parameters.
        """
        return dict(options)

    def rate_multiplier(self, parameter_name: str) -> float:
        """Factor of the learning rate for one parameter, after the warm-up."""
        return 1.0

    @property
    def text_encodings_per_step(self) -> int:
        """Sequences through the text tower in a training step; for each picture of it where class features depend on the picture."""
        return 0

    @property
    def splits_text(self) -> bool:
        """Whether, of several ranks, each encodes its share of the sequences of a training step."""
        return True

    @property
    def text_references_per_step(self) -> int:
        """Features of hard prompts that a training step compares soft ones with, where they are more than the soft ones; else 0."""
        return 0

    def notes(self) -> list[str]:
        """What must stand beside any number this method gives ("saw the names of the new classes")."""
        return []

    def start_from(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"]) -> None:
        """See the training pictures before learning by gradient begins, for methods whose parameters start from them."""

    def training_step(self, batch: Batch) -> StepOutput:
        """Loss and logits of a batch; only for methods that learn by gradient."""
        raise NotImplementedError(f"method {self.name} does not learn by gradient")

    def backward(self, output: StepOutput) -> None:
        """Put the gradients of a step in place."""
        output.loss.backward()

    def fit_features(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        """Fit in one go; only for methods that learn in closed form. View 0 is the test view of each picture."""
        raise NotImplementedError(f"method {self.name} does not learn in closed form")

    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        """Class features of any class names with what has been learnt, for the classes at hand or for ones added later.

        Raises:
            ConfigError: the method cannot know a class it was not trained on; the message gives the reason.
            DataError: a name is too long for the text tower.
        """
        raise NotImplementedError

    def classifier(self) -> AnyClassifier:
        """The classifier over :attr:`class_names` as learnt so far, detached."""
        raise NotImplementedError

    @torch.no_grad()
    def classifier_for(self, class_names: Sequence[str]) -> AnyClassifier:
        """The classifier over any class names: those it was trained on, some of them, or others known by name alone.

        Raises:
            ConfigError: the method cannot know a class it was not trained on; the message gives the reason.
            DataError: a name is too long for the text tower.
        """
        classifier = self.classifier()
        if tuple(class_names) == self.class_names:
            return classifier
        assert isinstance(classifier, Classifier)
        if set(class_names) <= set(self.class_names):
            return classifier.select([self.class_names.index(name) for name in class_names])
        places = [self.class_names.index(name) if name in self.class_names else None for name in class_names]
        return classifier.with_classes(self.encode_classes(class_names), places)

    def learnt_state(self) -> dict[str, Tensor]:
        """What has been learnt, by name, on the CPU; only this is saved."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}

    def load_learnt_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved parameters in place.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape; the message names it and both shapes.
        """
        mine = self.state_dict()
        for name in sorted(mine.keys() | tensors.keys()):
            if name not in tensors:
                raise CheckpointError(f"saved parameters of method {self.name} lack {name}")
            if name not in mine:
                raise CheckpointError(f"saved parameters of method {self.name} have {name}, which these options give no place")
            if tensors[name].shape != mine[name].shape:
                raise CheckpointError(
                    f"saved parameter {name} is {tuple(tensors[name].shape)}; these options ask for {tuple(mine[name].shape)}"
                )
        with torch.no_grad():
            self.load_state_dict(dict(tensors))

    @property
    def num_learnt_parameters(self) -> int:
        """How many numbers were learnt."""
        return sum(value.numel() for value in self.state_dict().values())
