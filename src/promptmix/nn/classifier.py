"""A fitted classifier as plain tensors: all that prediction needs once the class features are known.

Every method ends in one of these, so that prediction, evaluation, saving and export know nothing of methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from promptmix.nn.router import mixture_logits, routing_weights

__all__ = ["AnyClassifier", "Classifier", "Router", "move_features"]


def move_features(
    image_features: Float[Tensor, "image embedding"], image_map: Float[Tensor, "embedding embedding"]
) -> Float[Tensor, "image embedding"]:
    """The image side: ``v' = normalise(v + A v)``."""
    return functional.normalize(image_features + image_features @ image_map.T, dim=-1)


@runtime_checkable
class AnyClassifier(Protocol):
    """What measuring and predicting ask of a classifier."""

    def logits(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image class"]:
        """Class logits of normalised image features."""
        ...

    def expert_weights(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image expert"]:
        """The weight of every expert for every picture; rows sum to 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Router:
    """A linear router over image features that keeps ``top_k`` experts."""

    weight: Float[Tensor, "expert embedding"]
    bias: Float[Tensor, "expert"]
    top_k: int

    def weights(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image expert"]:
        return routing_weights(functional.linear(image_features, self.weight, self.bias), self.top_k)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Class features of one or several experts, with what turns an image feature into logits.

    Attributes:
        class_features: for each expert and class a vector; of length 1, except for a linear probe.
        scale: factor of the products.
        router: which experts answer; None where there is one expert.
        class_bias: added to the logits, for a linear probe.
        image_map: the image side A; routing looks at the feature before it.
        renormalise: bring the weighted mean of the experts back to length 1.
    """

    class_features: Float[Tensor, "expert class embedding"]
    scale: float
    router: Router | None = None
    class_bias: Float[Tensor, "class"] | None = None
    image_map: Float[Tensor, "embedding embedding"] | None = None
    renormalise: bool = False

    def expert_weights(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image expert"]:
        """The weight of every expert for every picture; one column of ones where there is one expert."""
        if self.router is None:
            return image_features.new_ones(image_features.shape[0], 1)
        return self.router.weights(image_features)

    def logits(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image class"]:
        """Class logits of normalised image features."""
        weights = self.expert_weights(image_features)
        if self.image_map is not None:
            image_features = move_features(image_features, self.image_map)
        logits = mixture_logits(image_features, self.class_features, weights, self.scale, self.renormalise)
        return logits if self.class_bias is None else logits + self.class_bias

    def with_classes(self, class_features: Float[Tensor, "expert class embedding"]) -> Classifier:
        """The same classifier over other classes; it must not be one that has a number of its own for each class."""
        assert self.class_bias is None
        return replace(self, class_features=class_features)

    def select(self, places: Sequence[int]) -> Classifier:
        """The same classifier over some of its classes, in the order of ``places``."""
        kept = torch.tensor(list(places), device=self.class_features.device)
        bias = None if self.class_bias is None else self.class_bias[kept]
        return replace(self, class_features=self.class_features[:, kept], class_bias=bias)

    def cpu(self) -> Classifier:
        """The same classifier on the CPU, where saved models live."""
        return Classifier.from_tensors(self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, for saving; :meth:`from_tensors` reads them back."""
        tensors = {"class_features": self.class_features, "scale": torch.tensor(self.scale, dtype=torch.float64)}
        if self.router is not None:
            tensors |= {"router.weight": self.router.weight, "router.bias": self.router.bias}
            tensors["router.top_k"] = torch.tensor(self.router.top_k)
        if self.class_bias is not None:
            tensors["class_bias"] = self.class_bias
        if self.image_map is not None:
            tensors["image_map"] = self.image_map
        if self.renormalise:
            tensors["renormalise"] = torch.tensor(True)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Classifier:
        """Read what :meth:`tensors` wrote.

        Raises:
            ValueError: a tensor is missing, unknown or of a shape that does not fit; the message names it.
        """
        known = {
            "class_features",
            "scale",
            "router.weight",
            "router.bias",
            "router.top_k",
            "class_bias",
            "image_map",
            "renormalise",
        }
        for name in sorted(tensors.keys() - known):
            raise ValueError(f"unknown tensor {name}")
        for name in ("class_features", "scale"):
            if name not in tensors:
                raise ValueError(f"tensor {name} is missing")
        features = tensors["class_features"]
        if features.ndim != 3 or min(features.shape) < 1:
            raise ValueError(f"class_features has shape {tuple(features.shape)}, not expert x class x embedding")
        experts, classes, width = features.shape
        routed = experts > 1 or any(name.startswith("router.") for name in tensors)
        for name in ("router.weight", "router.bias", "router.top_k") if routed else ():
            if name not in tensors:
                raise ValueError(f"tensor {name} is missing")
        shapes = {
            "scale": (),
            "router.weight": (experts, width),
            "router.bias": (experts,),
            "router.top_k": (),
            "class_bias": (classes,),
            "image_map": (width, width),
            "renormalise": (),
        }
        for name, shape in shapes.items():
            if name in tensors and tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {shape}")
        router = None
        if routed:
            top_k = int(tensors["router.top_k"])
            if not 1 <= top_k <= experts:
                raise ValueError(f"router.top_k is {top_k}, but there are {experts} experts")
            router = Router(weight=tensors["router.weight"], bias=tensors["router.bias"], top_k=top_k)
        return Classifier(
            class_features=features,
            scale=float(tensors["scale"]),
            router=router,
            class_bias=tensors.get("class_bias"),
            image_map=tensors.get("image_map"),
            renormalise="renormalise" in tensors,
        )
