"""The bodies of answers: what the description of the interface says of them, and how they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from promptmix.config import StrictModel
from promptmix.data.class_words import ClassWords
from promptmix.evaluation.predictions import Prediction, predictions_of
from promptmix.serving.batching import Answered
from promptmix.serving.models import LoadedModel
from promptmix.serving.pictures import SentPicture

__all__ = [
    "ClassList",
    "Embedded",
    "ModelList",
    "NewClass",
    "NewClasses",
    "NewName",
    "Predicted",
    "classes_of",
    "predicted_of",
]


class RankedClass(StrictModel):
    """A class with its probability, 0 to 1."""

    name: str = Field(alias="class")
    probability: float


class AnsweringExpert(StrictModel):
    """An expert that answered: its template, and its weight; the weights of a picture sum to 1."""

    template: str
    weight: float


class PredictedPicture(StrictModel):
    """What is on one picture.

    Attributes:
        name: of its file, where it came with one; or its address.
        class_name: the answer: the most probable class, or "none of these" where the model had better not answer.
        probability: of the most probable class; ``margin``: how far that is above the second.
        top: the most probable classes, falling.
        experts: those that answered, falling; None where they were not asked for.
        abstained, label_set, labels: what the rules of the model's calibration say; absent without them.
    """

    name: str | None
    class_name: str = Field(alias="class")
    probability: float
    margin: float
    top: list[RankedClass]
    experts: list[AnsweringExpert] | None = None
    abstained: bool
    label_set: list[str] | None = None
    labels: list[RankedClass] | None = None


class Predicted(StrictModel):
    """Predictions in the order of the pictures."""

    model: str
    version: str
    predictions: list[PredictedPicture]


class Embedded(StrictModel):
    """Image features of length 1 in the order of the pictures."""

    model: str
    version: str
    embeddings: list[list[float]]


class ClassList(StrictModel):
    """The classes a model tells apart, in its order."""

    model: str
    version: str
    classes: list[ClassWords]


class ModelInfo(StrictModel):
    """A model of the server; the first one is asked where no model is named. ``class_changes``: its classes may be changed here."""

    name: str
    version: str
    method: str
    backbone: str
    num_classes: int
    num_experts: int
    class_changes: bool


class ModelList(StrictModel):
    """All models of the server, and whether classes may be changed here at all."""

    models: list[ModelInfo]
    class_changes: bool


class NewClass(StrictModel):
    """A class to add: its name, other names for it, and what follows the name in the prompts."""

    name: str
    synonyms: list[str] = Field(default_factory=list, max_length=20)
    description: str | None = Field(default=None, max_length=200)

    def words(self) -> ClassWords:
        return ClassWords(name=self.name, synonyms=tuple(self.synonyms), description=self.description)


class NewClasses(StrictModel):
    """Classes to add, each a name or a name with more words."""

    classes: list[str | NewClass] = Field(min_length=1, max_length=1000)

    def words(self) -> list[ClassWords]:
        return [ClassWords(name=one) if isinstance(one, str) else one.words() for one in self.classes]


class NewName(NewClass):
    """Another name, with other words, for the class that is called ``old``."""

    old: str


def predicted_of(model: str, answered: Answered, pictures: Sequence[SentPicture], top: int, experts: bool) -> dict[str, Any]:
    """The body of an answer: see :class:`Predicted`."""
    engine, output = answered.by.engine, answered.output
    predictions = predictions_of(
        output.logits, output.expert_weights, engine.class_names, engine.expert_names, top, engine.calibration
    )
    said = [_one(prediction, picture, experts) for prediction, picture in zip(predictions, pictures, strict=True)]
    return {"model": model, "version": answered.by.version, "predictions": said}


def classes_of(model: str, loaded: LoadedModel) -> dict[str, Any]:
    """The body of an answer: see :class:`ClassList`."""
    words = [loaded.class_words.get(name, ClassWords(name=name)) for name in loaded.engine.class_names]
    return {"model": model, "version": loaded.version, "classes": [one.model_dump() for one in words]}


def _one(prediction: Prediction, picture: SentPicture, experts: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": picture.name,
        "class": prediction.answer,
        "probability": prediction.probability,
        "margin": prediction.margin,
        "top": _ranked(prediction.top),
        "abstained": prediction.abstained,
    }
    if experts:
        said["experts"] = [{"template": template, "weight": weight} for template, weight in prediction.experts]
    if prediction.label_set is not None:
        said["label_set"] = list(prediction.label_set)
    if prediction.labels is not None:
        said["labels"] = _ranked(prediction.labels)
    return said


def _ranked(classes: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "probability": probability} for name, probability in classes]
