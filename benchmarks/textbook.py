"""The text tower as a textbook has it, over the same weights: 77 padded tokens, one pass for each expert.

This is how the published code of the field runs it, and what the packed encoder is compared with. It is written for nothing
but obviousness. A second contestant is the same code with two simple thoughts more: padding no longer than the longest prompt, and
all experts in one pass.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.transformer import TransformerBlock

__all__ = ["TextbookTower", "encode_experts", "encode_trimmed"]


def _quick_gelu(values: Tensor) -> Tensor:
    return values * torch.sigmoid(1.702 * values)


class TextbookBlock(nn.Module):
    """Pre-norm block with torch's own multi-head attention."""

    def __init__(self, block: TransformerBlock, width: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.mlp_in, self.mlp_out = block.mlp_in, block.mlp_out
        self.attention = nn.MultiheadAttention(width, block.heads, batch_first=True)
        self.attention.load_state_dict(
            {
                "in_proj_weight": block.query_key_value.weight,
                "in_proj_bias": block.query_key_value.bias,
                "out_proj.weight": block.attention_output.weight,
                "out_proj.bias": block.attention_output.bias,
            }
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        normed = self.attention_norm(hidden)
        hidden = hidden + self.attention(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        change: Tensor = self.mlp_out(_quick_gelu(self.mlp_in(self.mlp_norm(hidden))))
        return hidden + change


class TextbookTower(nn.Module):
    """All positions of all sequences through all blocks; the end token is picked out last."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        length = tower.config.context_length
        self.position_embedding = tower.position_embedding
        self.blocks = nn.ModuleList(
            TextbookBlock(block, tower.config.width) for block in tower.blocks if isinstance(block, TransformerBlock)
        )
        self.final_norm, self.projection = tower.final_norm, tower.projection
        self.mask = torch.full((length, length), float("-inf"), device=tower.position_embedding.device).triu(1)
        self.requires_grad_(False)  # frozen, as in the published code

    def forward(self, embeddings: Float[Tensor, "sequence position width"], ends: Tensor) -> Float[Tensor, "sequence embedding"]:
        length = embeddings.shape[1]
        hidden = embeddings + self.position_embedding[:length]
        for block in self.blocks:
            hidden = block(hidden, self.mask[:length, :length])
        features: Tensor = self.projection(self.final_norm(hidden)[torch.arange(len(hidden)), ends])
        return features


def encode_experts(
    textbook: TextbookTower, tower: TextTower, contexts: list[Tensor], names: list[list[int]], stop: int
) -> Float[Tensor, "row embedding"]:
    """Features of ``[start] context name [stop] [end]`` padded to the tower's length, expert after expert."""
    length = tower.config.context_length
    return torch.cat([textbook(*_assembled(tower, context, names, stop, length)) for context in contexts])


def encode_trimmed(
    textbook: TextbookTower, tower: TextTower, contexts: list[Tensor], names: list[list[int]], stop: int
) -> Float[Tensor, "row embedding"]:
    """The same features, padded to the longest prompt alone, all experts in one pass."""
    length = max(len(context) for context in contexts) + max(len(name) for name in names) + 3
    parts = [_assembled(tower, context, names, stop, length) for context in contexts]
    features: Tensor = textbook(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
    return features


def _assembled(tower: TextTower, context: Tensor, names: list[list[int]], stop: int, length: int) -> tuple[Tensor, Tensor]:
    """Embeddings of one expert's prompts, and where each ends."""
    config = tower.config
    rows = [[config.start_token, *([0] * len(context)), *name, stop, config.end_token] for name in names]
    device = tower.position_embedding.device
    ends = torch.tensor([len(row) - 1 for row in rows], device=device)
    embeddings = tower.token_embedding(torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device))
    learnt = context.expand(len(names), -1, -1)
    return torch.cat([embeddings[:, :1], learnt, embeddings[:, 1 + len(context) :]], dim=1), ends
