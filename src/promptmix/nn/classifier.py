"""A fitted classifier as plain tensors: all that prediction needs once the class features are known.

Every method ends in one of these, so that prediction, evaluation, saving and export know nothing of methods.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from promptmix.nn.router import expert_products, mixture_logits, routing_weights

__all__ = ["AnyClassifier", "Classifier", "Memory", "Router", "move_features"]

_MOST_AFFINITIES = 2**24  # image x entry, at a time


def move_features(
    image_features: Float[Tensor, "image embedding"],
    image_map: Float[Tensor, "embedding embedding"],
    image_shift: Float[Tensor, "embedding"] | None = None,
) -> Float[Tensor, "image embedding"]:
    """The image side: ``v' = normalise(v + A v + c)``, without c where there is no shift."""
    moved = image_features + image_features @ image_map.T
    return functional.normalize(moved if image_shift is None else moved + image_shift, dim=-1)


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
class Memory:
    """Remembered training pictures that vote for their classes, as in Tip-Adapter (arXiv 2207.09519).

    Attributes:
        keys: the entries' image features; ``labels`` their classes.
        alpha: weight of the votes.
        beta: how fast a vote falls with the distance: ``exp(-beta * (1 - <v, key>))``.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("memory.keys", "memory.labels", "memory.alpha", "memory.beta")

    keys: Float[Tensor, "entry embedding"]
    labels: Int[Tensor, "entry"]
    alpha: float
    beta: float

    def logits(
        self, image_features: Float[Tensor, "image embedding"], num_classes: int | torch.SymInt
    ) -> Float[Tensor, "image class"]:
        """``alpha`` times the sum of the votes for each class; a class without entries has 0."""
        if torch.compiler.is_compiling():  # into a graph for any number of pictures
            return self._logits(image_features, num_classes)
        # In blocks, so that the table of image x entry does not grow with the pictures.
        blocks = image_features.split(max(1, _MOST_AFFINITIES // max(1, len(self.keys))))
        return torch.cat([self._logits(block, num_classes) for block in blocks])

    def _logits(
        self, image_features: Float[Tensor, "image embedding"], num_classes: int | torch.SymInt
    ) -> Float[Tensor, "image class"]:
        votes = torch.exp(self.beta * (image_features @ self.keys.T - 1))
        return self.alpha * votes.new_zeros(votes.shape[0], num_classes).index_add(1, self.labels, votes)

    def of_classes(self, places: Sequence[int | None], num_classes: int) -> Memory:
        """The entries of the classes that are left, renumbered; see :meth:`Classifier.with_classes`."""
        renumbered = torch.full((num_classes,), -1)
        for now, before in enumerate(places):
            if before is not None:
                renumbered[before] = now
        labels = renumbered.to(self.labels.device)[self.labels]
        return replace(self, keys=self.keys[labels >= 0], labels=labels[labels >= 0])

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors; :meth:`from_tensors` reads them back."""
        numbers = (torch.tensor(number, dtype=torch.float64) for number in (self.alpha, self.beta))
        return dict(zip(self.NAMES, (self.keys, self.labels, *numbers), strict=True))

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], num_classes: int, width: int) -> Memory | None:
        """Read what :meth:`tensors` wrote, from among others; None where there is nothing of it.

        Raises:
            ValueError: a tensor is missing or does not fit; the message names it.
        """
        if not any(name in tensors for name in Memory.NAMES):
            return None
        for name in Memory.NAMES:
            if name not in tensors:
                raise ValueError(f"tensor {name} is missing")
        keys, labels, alpha, beta = (tensors[name] for name in Memory.NAMES)
        shapes = ((labels.numel(), width), (labels.numel(),), (), ())
        for name, shape in zip(Memory.NAMES, shapes, strict=True):
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {shape}")
        if labels.dtype != torch.int64 or not bool(((labels >= 0) & (labels < num_classes)).all()):
            raise ValueError(f"memory.labels must be whole numbers from 0 to {num_classes - 1}")
        return Memory(keys=keys, labels=labels, alpha=float(alpha), beta=float(beta))


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Class features of one or several experts, with what turns an image feature into logits.

    Attributes:
        class_features: for each expert and class a vector; of length 1, except for a linear probe.
        scale: factor of the products.
        router: which experts answer; None where there is one expert.
        class_bias: added to the logits, for a linear probe.
        image_map: the image side A; routing looks at the feature before it. ``image_shift``: its c, where it has one.
        renormalise: bring the weighted mean of the experts back to length 1.
        memory: training pictures whose votes are added to the logits; they are compared with the feature before the image side.
    """

    class_features: Float[Tensor, "expert class embedding"]
    scale: float
    router: Router | None = None
    class_bias: Float[Tensor, "class"] | None = None
    image_map: Float[Tensor, "embedding embedding"] | None = None
    image_shift: Float[Tensor, "embedding"] | None = None
    renormalise: bool = False
    memory: Memory | None = None

    def expert_weights(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image expert"]:
        """The weight of every expert for every picture; one column of ones where there is one expert."""
        if self.router is None:
            return image_features.new_ones(image_features.shape[0], 1)
        return self.router.weights(image_features)

    def logits(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image class"]:
        """Class logits of normalised image features."""
        weights = self.expert_weights(image_features)
        moved = image_features
        if self.image_map is not None:
            moved = move_features(image_features, self.image_map, self.image_shift)
        products = self._products if self.renormalise else None
        logits = mixture_logits(moved, self.class_features, weights, self.scale, self.renormalise, products)
        if self.memory is not None:
            logits = logits + self.memory.logits(image_features, logits.shape[1])
        return logits if self.class_bias is None else logits + self.class_bias

    @functools.cached_property
    def _products(self) -> Float[Tensor, "expert expert class"]:
        """Calculated for the first batch of pictures and kept: for few pictures they cost more than all else."""
        return expert_products(self.class_features)

    def with_classes(
        self, class_features: Float[Tensor, "expert class embedding"], places: Sequence[int | None] | None = None
    ) -> Classifier:
        """The same classifier over other classes; it must not be one that has a bias for each class.

        Args:
            places: for each class its place among those of this classifier, each at most once, or None where it is a new one,
                known by its name alone; left out where all are. Remembered pictures of a class that is gone do not count, and a
                new class has none.
        """
        assert self.class_bias is None
        if self.memory is None:
            return replace(self, class_features=class_features)
        before = [None] * class_features.shape[1] if places is None else places
        return replace(self, class_features=class_features, memory=self.memory.of_classes(before, self.num_classes))

    def select(self, places: Sequence[int]) -> Classifier:
        """The same classifier over some of its classes, each at most once, in the order of ``places``."""
        kept = torch.tensor(list(places), device=self.class_features.device)
        bias = None if self.class_bias is None else self.class_bias[kept]
        memory = None if self.memory is None else self.memory.of_classes(places, self.num_classes)
        return replace(self, class_features=self.class_features[:, kept], class_bias=bias, memory=memory)

    @property
    def num_classes(self) -> int:
        return self.class_features.shape[1]

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
        if self.image_shift is not None:
            tensors["image_shift"] = self.image_shift
        if self.renormalise:
            tensors["renormalise"] = torch.tensor(True)
        if self.memory is not None:
            tensors |= self.memory.tensors()
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
            "image_shift",
            "renormalise",
            *Memory.NAMES,
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
            "image_shift": (width,),
            "renormalise": (),
        }
        for name, shape in shapes.items():
            if name in tensors and tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {shape}")
        if "image_shift" in tensors and "image_map" not in tensors:
            raise ValueError("tensor image_map is missing")
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
            image_shift=tensors.get("image_shift"),
            renormalise="renormalise" in tensors,
            memory=Memory.from_tensors(tensors, classes, width),
        )
