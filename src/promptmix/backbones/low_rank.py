"""Low-rank changes of a transformer's attention matrices (LoRA, arXiv 2106.09685), beside frozen weights or merged into them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.siglip_text import SiglipTextTower
from promptmix.backbones.siglip_vision import SiglipVisionTower
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.transformer import QueryKeyValue, TransformerBlock
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.distributed.rows import Share
from promptmix.runtime import derive_seed

__all__ = [
    "PROJECTIONS",
    "LowRankChanges",
    "LowRankQueryKeyValue",
    "Projection",
    "changed_tower",
    "merged_tower",
    "starting_changes",
]

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")
"""Query, key and value, in the order in which a block's matrix holds them."""

_Tower = TypeVar("_Tower", bound=VisionTransformer | SiglipVisionTower | TextTower | SiglipTextTower)


class LowRankChanges(nn.Module):
    """What is added to the query, key and value matrices of every block of one tower: ``scale * B A dropout(x)``.

    Attributes:
        down: A of every block and projection.
        up: B of every block and projection.
        projections: which of query, key and value are changed, in the order of ``down`` and ``up``.
        mask_seed: what the dropout of the passes to come is drawn from, so that a pass that is computed again in the backward pass
            drops the same; None: nothing is dropped.
        mask_share: which rows these passes are given of all that are computed together; None: all of them.
    """

    def __init__(
        self,
        down: Float[Tensor, "block projection rank width"],
        up: Float[Tensor, "block projection width rank"],
        projections: Sequence[Projection],
        scale: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.projections = tuple(projections)
        self.mask_seed: int | None = None
        self.mask_share: Share | None = None
        self._scale, self._dropout = scale, dropout

    def forward(
        self, normed: Float[Tensor, "*rows width"], block: int, projections: Sequence[Projection]
    ) -> Float[Tensor, "*rows projected"]:
        """The changes of some projections in one block, one behind the other."""
        lowered, raising = [normed[..., :0]], []
        for projection in projections:
            if projection in self.projections:
                place = self.projections.index(projection)
                lowered.append(functional.linear(self._dropped(normed, block, projection), self.down[block, place]))
                raising.append(self.up[block, place])
            else:
                raising.append(self.up.new_zeros(self.up.shape[2], 0))
        # One product for all: its rows are as narrow as the ranks together.
        return functional.linear(torch.cat(lowered, dim=-1), self._scale * torch.block_diag(*raising))

    def _dropped(self, normed: Float[Tensor, "*rows width"], block: int, projection: Projection) -> Float[Tensor, "*rows width"]:
        if self.mask_seed is None or self._dropout == 0:
            return normed
        generator = torch.Generator(normed.device).manual_seed(derive_seed(self.mask_seed, f"{projection} of block {block}"))
        share = self.mask_share or Share(first=0, count=len(normed), total=len(normed))
        # Drawn for all rows, whoever computes them, so that a row loses the same however many share the work.
        drawn = torch.rand((share.total, *normed.shape[1:]), generator=generator, device=normed.device)[share.places]
        return normed * (drawn >= self._dropout) / (1 - self._dropout)

    @torch.no_grad()
    def products(self) -> Float[Tensor, "block projection width width"]:
        """What the changes add to the matrices, dropout aside."""
        return self._scale * (self.up @ self.down)


class LowRankQueryKeyValue(QueryKeyValue):
    """The frozen matrices of one block with low-rank changes beside them."""

    def __init__(self, plain: QueryKeyValue, changes: LowRankChanges, block: int) -> None:
        # Weights of its own would be drawn at random, only to be thrown away.
        with torch.device("meta"):
            super().__init__(plain.in_features)
        self.weight, self.bias = plain.weight, plain.bias
        self._changes, self._block = changes, block

    def forward(self, normed: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows projected"]:
        """Queries, keys and values, one behind the other."""
        return super().forward(normed) + self._change(normed, PROJECTIONS)

    def query(self, normed: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        return super().query(normed) + self._change(normed, PROJECTIONS[:1])

    def key_value(self, normed: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows keys_and_values"]:
        return super().key_value(normed) + self._change(normed, PROJECTIONS[1:])

    def _change(
        self, normed: Float[Tensor, "*rows width"], projections: Sequence[Projection]
    ) -> Float[Tensor, "*rows projected"]:
        change: Tensor = self._changes(normed, self._block, projections)
        return change


def starting_changes(
    tower: VisionTransformer | SiglipVisionTower | TextTower | SiglipTextTower,
    projections: Sequence[Projection],
    rank: int,
    scale: float,
    dropout: float,
    generator: torch.Generator,
) -> LowRankChanges:
    """Changes to learn, which change nothing yet: A uniform within 1 / sqrt(width) (Kaiming's with a slope of sqrt 5), B zero."""
    blocks, width = len(tower.blocks), tower.config.width
    down = torch.empty(blocks, len(projections), rank, width).uniform_(-(width**-0.5), width**-0.5, generator=generator)
    up = torch.zeros(blocks, len(projections), width, rank)
    device = tower.position_embedding.device
    return LowRankChanges(down.to(device), up.to(device), projections, scale, dropout)


def changed_tower(tower: _Tower, changes: LowRankChanges) -> _Tower:
    """A tower with changes beside its weights, for learning them. It shares all weights with the tower, which is left alone."""
    changed = _with_own_modules(tower)
    for number, block in enumerate(changed.blocks):
        assert isinstance(block, TransformerBlock)
        block.query_key_value = LowRankQueryKeyValue(block.query_key_value, changes, number)
    return changed


@torch.no_grad()
def merged_tower(tower: _Tower, changes: LowRankChanges) -> _Tower:
    """A tower with changes added to its weights, for using them at no further cost. It shares all other weights with the tower."""
    merged = _with_own_modules(tower)
    products = changes.products()
    for number, block in enumerate(merged.blocks):
        assert isinstance(block, TransformerBlock)
        weight = block.query_key_value.weight.detach().clone()
        parts = dict(zip(PROJECTIONS, weight.chunk(3), strict=True))
        for projection, product in zip(changes.projections, products[number].to(weight.device), strict=True):
            # Added before it is rounded to the precision of the tower.
            parts[projection].copy_(parts[projection] + product)
        block.query_key_value.weight = nn.Parameter(weight, requires_grad=False)
    return merged


def _with_own_modules(tower: _Tower) -> _Tower:
    """A copy of a tower's modules round the same parameters."""
    return copy.deepcopy(tower, {id(parameter): parameter for parameter in tower.parameters()})
