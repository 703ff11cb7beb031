"""Classes that come with synonyms and descriptions, and classes that get another name; nothing is retrained."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.data.class_words import ClassWords
from promptmix.data.records import check_class_names, class_key
from promptmix.errors import ConfigError, DataError, did_you_mean
from promptmix.inference.predictor import add_classes, calibration_for, method_of
from promptmix.model_folder import SavedModel
from promptmix.nn.calibration import NONE_OF_THESE

__all__ = ["add_worded_classes", "rename_class"]


def add_worded_classes(model: SavedModel, classes: Sequence[ClassWords], backbone: Backbone) -> SavedModel:
    """The same model with more classes, each known by its name, its synonyms and its description.

    Raises:
        ConfigError, DataError, CheckpointError: as :func:`~promptmix.inference.predictor.add_classes`; or a class has more words
            than its name, and the method's class features depend on the picture; a synonym or a description is empty or holds a
            control character, or a synonym is given twice.
    """
    first = len(model.class_names)
    classes = [_cleaned(words) for words in classes]
    added = add_classes(model, [words.name for words in classes], backbone)
    named = [words.model_copy(update={"name": name}) for words, name in zip(classes, added.class_names[first:], strict=True)]
    known = {name: words for name, words in model.class_words.items() if name in model.class_names}
    known |= {words.name: words for words in named if not words.is_plain}
    places = [first + place for place, words in enumerate(named) if not words.is_plain]
    if not places:
        return dataclasses.replace(added, class_words=known)
    _refuse_moving_features(added, "synonyms and descriptions")
    assert added.classifier is not None
    features = added.classifier.class_features.clone()
    features[:, places] = _worded_features(added, [words for words in named if not words.is_plain], backbone)
    classifier = dataclasses.replace(added.classifier, class_features=features)
    return dataclasses.replace(added, classifier=classifier, class_words=known)


def rename_class(model: SavedModel, old: str, new: ClassWords, backbone: Backbone | None = None) -> SavedModel:
    """The same model with another name for one class, in the same place.

    The class features are made anew from the new words by the text tower, as those of an added class are; the votes of remembered
    training pictures stay with the class, because they are pictures of it under any name. Of a calibration stays what stays when a
    class is added. Where a class is known by pictures alone (a linear probe), only the name changes.

    Args:
        backbone: the model's, with its text tower; not needed where classes are known by pictures alone.

    Raises:
        ConfigError: the model has no class ``old``, or the method cannot know a class by name.
        DataError: the new name is there already, is empty, or is too long for the text tower; or it is what no answer is called; a
            synonym or the description is empty or holds a control character, or a synonym is given twice.
    """
    places = {class_key(name): place for place, name in enumerate(model.class_names)}
    if class_key(old) not in places:
        raise ConfigError(f"the model has no class {old!r}{did_you_mean(old, model.class_names)}")
    place = places[class_key(old)]
    if places.get(class_key(new.name), place) != place:
        raise DataError(f"the model has a class {new.name!r} already; choose another name, or remove that class first")
    new = _cleaned(new)
    others = [name for at, name in enumerate(model.class_names) if at != place]
    new = new.model_copy(update={"name": check_class_names([*others, new.name])[-1]})
    names = tuple(new.name if at == place else name for at, name in enumerate(model.class_names))
    known = {name: words for name, words in model.class_words.items() if name in others}
    if not new.is_plain:
        known[new.name] = new
    if model.classifier is not None and model.classifier.class_bias is not None:
        if not new.is_plain:
            raise ConfigError(f"a model of method {model.method} knows its classes by pictures alone; give only the new name")
        if model.calibration is not None and model.calibration.abstain is not None and class_key(new.name) == NONE_OF_THESE:
            raise DataError(f"{NONE_OF_THESE!r} is what the model says where it does not answer; choose another name")
        return dataclasses.replace(model, class_names=names, class_words=known)
    if backbone is None:
        raise ConfigError("a class is renamed with the text tower of the model's backbone; give the backbone")
    kept = [None if at == place else at for at in range(len(names))]
    if model.classifier is None:
        if not new.is_plain:
            _refuse_moving_features(model, "synonyms and descriptions")
        method_of(model, backbone).classifier_for((new.name,))  # whether it knows it
        return dataclasses.replace(model, class_names=names, class_words=known, calibration=calibration_for(model, kept))
    features = model.classifier.class_features.clone()
    features[:, [place]] = _worded_features(model, [new], backbone)
    classifier = dataclasses.replace(model.classifier, class_features=features)
    calibration = calibration_for(model, kept)
    return dataclasses.replace(model, class_names=names, classifier=classifier, class_words=known, calibration=calibration)


def _cleaned(words: ClassWords) -> ClassWords:
    """The same with single white space in its synonyms and its description; the name is checked with those of the other classes.

    Raises:
        DataError: one of them is empty or holds a control character, or two of name and synonyms are one.
    """

    def cleaned(text: str, what: str) -> str:
        text = " ".join(text.split())
        if not text:
            raise DataError(f"{what} of class {words.name[:200]!r} is empty; write one, or leave it out")
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
            raise DataError(f"{what} of class {words.name[:200]!r} holds a control character: {text[:200]!r}; write it without")
        return text

    description = None if words.description is None else cleaned(words.description, "the description")
    synonyms = tuple(cleaned(one, "a synonym") for one in words.synonyms)
    if synonyms:
        check_class_names([words.name, *synonyms])
    return words.model_copy(update={"synonyms": synonyms, "description": description})


def _worded_features(
    model: SavedModel, classes: Sequence[ClassWords], backbone: Backbone
) -> Float[Tensor, "expert class embedding"]:
    """Of each expert the mean over the texts of a class, brought back to length 1."""
    texts = [text for words in classes for text in words.texts()]
    owners = torch.tensor([place for place, words in enumerate(classes) for _ in words.texts()])
    encoded = method_of(model, backbone).encode_classes(texts).detach().cpu()
    sums = encoded.new_zeros(encoded.shape[0], len(classes), encoded.shape[2]).index_add(1, owners, encoded)
    # One text is left as it is, so that a class without synonyms has to the bit the features that its name gives.
    alone = torch.bincount(owners) == 1
    return torch.where(alone[None, :, None], sums, functional.normalize(sums, dim=-1))


def _refuse_moving_features(model: SavedModel, what: str) -> None:
    if model.classifier is None:
        raise ConfigError(
            f"class features of method {model.method} depend on the picture, which leaves no room for {what}; give names"
        )
