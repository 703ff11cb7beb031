"""A whole training step of the mixture of prompts at any size, ours and a textbook's, over the same random weights.

Both hold one state: the method's parameters and one optimizer. Both encode the classes once and use the features twice, for the
classification of the pictures and for the text supervision. The prototypes, which are made once before the first step, are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from benchmarks.prediction import VIT_B16_IMAGE
from benchmarks.text_encoding import VIT_B16_TEXT, packed_flops
from benchmarks.textbook import TextbookTower, encode_experts
from promptmix.backbones.base import Backbone
from promptmix.backbones.clip_tokenizer import bundled_clip_tokenizer
from promptmix.backbones.configs import BackboneConfig, PreprocessConfig, TextConfig
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.methods.base import Method
from promptmix.methods.mocoop import MixtureOfPrompts
from promptmix.prompts.assemble import class_tokens
from promptmix.prompts.chunks import ChunkLimits, limit_chunks
from promptmix.prompts.encoder import PackedPrompts
from promptmix.structs import Batch
from promptmix.training.chunking import plan_chunks
from promptmix.training.optim import build_optimizer

__all__ = [
    "BUNDLED",
    "CONTESTANTS",
    "VIT_B16",
    "Contestant",
    "MixtureStep",
    "Size",
    "class_names",
    "contestant",
    "random_backbone",
    "templates",
]

VIT_B16, BUNDLED = "ViT-B/16 size, random weights", "bundled"
_WORDS = (
    *("small", "large", "good", "bright", "dark", "clean", "old", "new", "red", "green", "blue", "black", "white", "brown", "cold", "warm"),
    *("city", "river", "house", "road", "tree", "flower", "dog", "cat", "horse", "bird", "fish", "car", "train", "boat", "chair", "table"),
    *("cup", "book", "phone", "clock", "shirt", "shoe", "hat", "bag", "field", "forest", "sea", "lake", "bridge", "tower", "door", "window"),
)  # fmt: skip
_MOST_CLASSES = 2 * len(_WORDS) ** 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a step works on.

    Attributes:
        context: learnt vectors before each class name, where the tower's tokenizer has a token for each word.
        tower: the text tower: ``VIT_B16`` or ``BUNDLED``.
    """

    experts: int
    classes: int
    pictures: int = 32
    context: int = 4
    tower: str = VIT_B16

    @property
    def rows(self) -> int:
        """Sequences of a step."""
        return self.experts * self.classes


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way to take the step: ours or the textbook's, in float32 unless said otherwise.

    Attributes:
        autocast: products and attention in bf16 under ``torch.autocast``; ``precision``: of the frozen tower's weights.
    """

    textbook: bool = False
    autocast: bool = False
    compiled: bool = False
    precision: torch.dtype = torch.float32

    @property
    def products(self) -> torch.dtype:
        """What most matrix products are calculated in."""
        return torch.bfloat16 if self.autocast else self.precision


CONTESTANTS = {
    "ours": Contestant(),
    "textbook": Contestant(textbook=True),
    "ours, bf16 autocast": Contestant(autocast=True),
    "ours, bf16 tower": Contestant(precision=torch.bfloat16),
    "ours, compiled": Contestant(compiled=True),
    "ours, compiled, bf16 tower": Contestant(compiled=True, precision=torch.bfloat16),
    "textbook, bf16 autocast": Contestant(textbook=True, autocast=True),
}


def class_names(number: int) -> list[str]:
    """So many different names of two or three words, in turns."""
    if number > _MOST_CLASSES:
        raise ValueError(f"there are names for {_MOST_CLASSES} classes, not for {number}")
    pairs = [f"{first} {second}" for first in _WORDS for second in _WORDS]
    return [("", "very ")[place % 2] + pairs[place // 2] for place in range(number)]


def templates(experts: int, context: int) -> tuple[tuple[str, ...], ...]:
    """A group of one template for each expert, with ``context`` words before the class name and none after it."""
    if experts > len(_WORDS):
        raise ValueError(f"there are words for {len(_WORDS)} experts, not for {experts}")
    return tuple((" ".join([word, *["of"] * (context - 1), "{}."]),) for word in _WORDS[:experts])


def random_backbone(text: TextConfig, embedding_width: int, device: torch.device, seed: int = 0) -> Backbone:
    """CLIP's tokenizer and a frozen text tower of these sizes with random weights; there is no image tower."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = TextTower(text, embedding_width).requires_grad_(False).eval()
        torch.nn.init.normal_(tower.position_embedding, std=0.01)
        torch.nn.init.normal_(tower.token_embedding.weight, std=0.02)
    preprocess = PreprocessConfig(resize=224, crop=224, mean=(0.48, 0.46, 0.41), standard_deviation=(0.27, 0.26, 0.28))
    return Backbone(
        name="random",
        fingerprint="random",
        config=BackboneConfig(embedding_width=embedding_width, text=text, vision=VIT_B16_IMAGE, preprocess=preprocess),
        logit_scale=100.0,
        tokenizer=Tokenizer(Path("the bundled merges"), text, bundled_clip_tokenizer()),
        vision=None,
        text=tower.to(device),
    )


class MixtureStep:
    """One method, one batch and one optimizer, and the ways to take a step with them.

    Args:
        backbone: with a text tower; left out, that of ``size.tower``.
        precision: of the tower's weights.
    """

    def __init__(
        self,
        size: Size,
        device: torch.device | None = None,
        backbone: Backbone | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        device = torch.device("cpu") if device is None else device
        if backbone is None and size.tower == BUNDLED:
            backbone = load_backbone("bundled", device=device.type)
        elif backbone is None:
            backbone = random_backbone(VIT_B16_TEXT, VIT_B16_TEXT.width, device)
        backbone = backbone.in_precision(precision)
        tower, tokenizer = backbone.require_text()
        assert isinstance(tower, TextTower)
        self.size, self.device, self._tower, self._tokenizer = size, device, tower, tokenizer
        names = class_names(size.classes)
        options = MixtureOfPrompts.parse_options({"groups": templates(size.experts, size.context)})
        self.method = MixtureOfPrompts(options, backbone, names).to(device)
        self._options, self.limits = options, ChunkLimits()
        self.config, self.embedding_width = tower.config, backbone.config.embedding_width
        generator = torch.Generator().manual_seed(1)

        def unit_vectors(*shape: int) -> Tensor:
            return functional.normalize(torch.randn(*shape, self.embedding_width, generator=generator), dim=-1).to(device)

        self.prototypes = unit_vectors(size.experts, size.classes)
        self.method._prototypes = self.prototypes
        labels = torch.randint(size.classes, (size.pictures,), generator=generator).to(device)
        self.batch = Batch(image_features=unit_vectors(size.pictures), labels=labels)
        recipe = self.method.default_recipe(None)
        assert recipe.clip is not None
        self._clip = recipe.clip
        self._optimizer = build_optimizer(self.method, recipe)
        self._names = [list(name) for name in class_tokens(tokenizer, names, after_a_space=True)]
        self._stop = tokenizer.encode(".")[0]
        self._textbook: TextbookTower | None = None

    def plan_memory(self, max_bytes: int) -> None:
        """Let ours encode as many sequences at a time as training plans with ``--max-memory``, where there are many."""

        def build(names: Sequence[str]) -> Method:
            return MixtureOfPrompts(self._options, self.method.backbone, names).to(self.device)

        if self.size.rows > self.limits.rows:
            plan = plan_chunks(self.method, build, self.size.pictures, max_bytes)
            assert plan is not None
            self.limits = plan.limits

    def loss(self) -> Float[Tensor, ""]:
        """The loss as the method takes it, with its graph."""
        return self.method.training_step(self.batch).loss

    def textbook_loss(self) -> Float[Tensor, ""]:
        """The same loss as a textbook has it: padded sequences through all of the tower, one expert after the other."""
        method, pictures, labels = self.method, self.batch.image_features, self.batch.labels
        config, correction = method._config, method.correction
        assert correction is not None
        contexts = list(method.contexts.split([len(slots.before) for slots in method._bank.slots]))
        encoded = encode_experts(self.textbook_tower(), self._tower, contexts, self._names, self._stop).chunk(len(contexts))
        experts = [functional.normalize(features.float() + correction, dim=-1) for features in encoded]

        router_logits = pictures @ method.router_weight.T + method.router_bias
        best = router_logits.topk(min(config.top_k, len(experts)), dim=1)
        weights = torch.zeros_like(router_logits).scatter(1, best.indices, best.values.softmax(dim=1))
        scale = method._scale
        logits = sum((weights[:, [number]] * scale * pictures @ each.T for number, each in enumerate(experts)), torch.zeros(()))
        classification = functional.cross_entropy(logits, labels)

        classes = torch.arange(self.size.classes, device=self.device)
        of_experts = [
            functional.cross_entropy(scale * each @ mine.T, classes) for each, mine in zip(experts, self.prototypes, strict=True)
        ]
        fit = torch.stack([(pictures * mine[labels]).sum(dim=1) for mine in self.prototypes], dim=1)
        raised = fit.scatter_add(1, fit.topk(best.indices.shape[1], dim=1).indices, torch.full_like(fit, config.router_bonus))
        routing = functional.cross_entropy(router_logits, raised.softmax(dim=1))
        return classification + config.text_weight * torch.stack(of_experts).mean() + config.router_weight * routing

    def textbook_tower(self) -> TextbookTower:
        """The textbook's tower, made when it is first asked for."""
        if self._textbook is None:
            self._textbook = TextbookTower(self._tower).to(self.device)
        return self._textbook

    def step(self, loss: Callable[[], Float[Tensor, ""]]) -> float:
        """Forward, backward and the optimizer's step, as the training loop takes them; returns the loss once all is done."""
        with limit_chunks(self.limits):
            taken = loss()
            self._optimizer.zero_grad()
            taken.backward()
        torch.nn.utils.clip_grad_norm_(self.method.parameters(), self._clip)
        self._optimizer.step()
        return float(taken.detach())

    def gradients(self, loss: Callable[[], Float[Tensor, ""]]) -> dict[str, Tensor]:
        """The gradients of all that is learnt, by name."""
        named = dict(self.method.named_parameters())
        return dict(zip(named, torch.autograd.grad(loss(), list(named.values())), strict=True))

    def flops(self) -> int:
        """Multiplications and additions of the matrix products that a step needs, with nothing computed twice."""
        packed = self.method._packed
        assert isinstance(packed, PackedPrompts)
        text = sum(packed_flops(self.config, layout, self.embedding_width) for layout in packed.chunks)
        # The classes' products with the pictures and with the prototypes, and the router's; each backward to one side.
        products = self.size.rows * (self.size.pictures + self.size.classes) + self.size.experts * self.size.pictures
        return text + 4 * products * self.embedding_width

    @property
    def context(self) -> float:
        """Learnt vectors of an expert, in the mean: the words of a template may be several tokens."""
        return len(self.method.contexts) / self.size.experts

    @property
    def num_chunks(self) -> int:
        """Into how many parts ours cuts the sequences."""
        return math.ceil(self.size.rows / self.limits.rows)

    @property
    def rows_computed_twice(self) -> int:
        """Sequences that ours computes again in the backward pass; those of a single part never are."""
        return 0 if self.num_chunks == 1 else max(0, self.size.rows - (self.limits.kept_rows or 0))


def contestant(name: str, step: MixtureStep) -> Callable[[], float]:
    """A call that takes one step in the way called ``name``; see :data:`CONTESTANTS`."""
    options = CONTESTANTS[name]
    loss = step.textbook_loss if options.textbook else step.loss
    if options.textbook:
        step.textbook_tower()
    if options.compiled:
        loss = torch.compile(loss)
    autocast = torch.autocast(step.device.type, torch.bfloat16, enabled=options.autocast)

    def whole_loss() -> Tensor:
        with autocast:
            return loss()

    return lambda: step.step(whole_loss)
