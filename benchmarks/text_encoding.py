"""The text encoding step of training: 6 experts x 10 classes, text tower of ViT-B/16 size, random weights, CPU, float32.

Forward and backward of the packed encoder against the textbook tower over the same weights and the same prompts, beside what the
machine's matrix product says the packed step must cost at least.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import in_own_process, matrix_product_rate, median, take_turns
from benchmarks.textbook import TextbookTower, encode_experts, encode_trimmed
from promptmix.backbones.configs import TextConfig
from promptmix.backbones.text_tower import TextTower
from promptmix.evaluation.results import peak_memory_bytes
from promptmix.prompts.encoder import PackedPrompts
from promptmix.prompts.layout import PromptLayout
from promptmix.runtime import keep_freed_memory

__all__ = ["Step", "measure_text_encoding", "packed_flops"]

# Lengths in tokens of CLIP's vocabulary: the first templates of the six EuroSAT groups, and its ten class names.
CONTEXT_LENGTHS = (5, 4, 5, 5, 6, 5)
NAME_LENGTHS = (3, 1, 4, 3, 2, 2, 3, 2, 1, 3)
VIT_B16_TEXT = TextConfig(
    width=512,
    layers=12,
    heads=8,
    mlp_width=2048,
    context_length=77,
    vocabulary_size=49408,
    activation="quick_gelu",
    layer_norm_epsilon=1e-5,
    start_token=49406,
    end_token=49407,
)
STOP_TOKEN = 269


class Step:
    """One tower, one set of prompts, and the two ways to take the step over them."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.tower = TextTower(VIT_B16_TEXT, 512).requires_grad_(False).eval()
        self.names = [[1000 + 10 * number + place for place in range(length)] for number, length in enumerate(NAME_LENGTHS)]
        self.contexts = [(0.02 * torch.randn(length, VIT_B16_TEXT.width)).requires_grad_() for length in CONTEXT_LENGTHS]
        torch.nn.init.normal_(self.tower.position_embedding, std=0.01)
        torch.nn.init.normal_(self.tower.token_embedding.weight, std=0.02)
        self.target = torch.nn.functional.normalize(torch.randn(len(CONTEXT_LENGTHS) * len(NAME_LENGTHS), 512), dim=-1)
        self.textbook = TextbookTower(self.tower)
        rows, groups, first = [], [], 0
        for number, context in enumerate(self.contexts):
            vectors = [-1 - place for place in range(first, first + len(context))]
            first += len(context)
            for name in self.names:
                rows.append([VIT_B16_TEXT.start_token, *vectors, *name, STOP_TOKEN, VIT_B16_TEXT.end_token])
                groups.append(number)
        self.packed = PackedPrompts(self.tower, rows, groups)  # laid out once, as training does

    def textbook_step(self) -> list[Tensor]:
        """Forward and backward as a textbook has it; returns the contexts' gradients."""
        return self._backward(encode_experts(self.textbook, self.tower, self.contexts, self.names, STOP_TOKEN))

    def trimmed_step(self) -> list[Tensor]:
        """Forward and backward of the textbook with short padding and one pass; returns the contexts' gradients."""
        return self._backward(encode_trimmed(self.textbook, self.tower, self.contexts, self.names, STOP_TOKEN))

    def packed_step(self) -> list[Tensor]:
        """Forward and backward of the packed encoder; returns the contexts' gradients."""
        return self._backward(self.packed.encode(torch.cat(self.contexts)))

    def _backward(self, features: Tensor) -> list[Tensor]:
        loss = (torch.nn.functional.normalize(features, dim=-1) * self.target).sum()
        return list(torch.autograd.grad(loss, self.contexts))


def packed_flops(config: TextConfig, layout: PromptLayout, embedding_width: int) -> int:
    """Multiplications and additions of the packed step's matrix products, forward, and backward with frozen weights.

    A product with a frozen matrix has one product backward, to its input; the two of attention have two each.
    """
    tokens, rows, width = layout.num_packed_tokens, layout.num_rows, config.width
    attention, perceptron = 4 * width * width, 2 * width * config.mlp_width
    inner = (config.layers - 1) * 2 * tokens * (attention + perceptron)
    last = 2 * tokens * 2 * width * width + 2 * rows * (2 * width * width + perceptron)
    # Pairs of a query and what it may look at; with the padding, a few per cent.
    inner_pairs = int(layout.prefix_mask.sum()) + int(layout.suffix_mask.sum())
    pairs = (config.layers - 1) * inner_pairs + int(layout.end_mask.sum())
    return 2 * (inner + last + 2 * rows * width * embedding_width) + 3 * 4 * pairs * width


def measure_text_encoding(rounds: int = 7) -> dict[str, Any]:
    """Time, memory and agreement of the two steps."""
    keep_freed_memory()  # as training does
    step = Step()
    worst = max(
        float((ours - theirs).norm() / theirs.norm())
        for ours, theirs in zip(step.packed_step(), step.textbook_step(), strict=True)
    )
    product = matrix_product_rate()
    flops_of_product = product()
    seconds = take_turns(
        {"product": product, "packed": step.packed_step, "trimmed": step.trimmed_step, "textbook": step.textbook_step}, rounds
    )
    rate = flops_of_product / median(seconds["product"])
    flops = packed_flops(VIT_B16_TEXT, step.packed.chunks[0], 512)
    memory = {name: _memory_of(name) for name in ("packed", "trimmed", "textbook")}
    return {
        "what": "text encoding step, 6 experts x 10 classes, text tower of ViT-B/16 size, forward + backward, float32",
        "rounds": rounds,
        "packed_tokens": step.packed.chunks[0].num_packed_tokens,
        "textbook_tokens": len(CONTEXT_LENGTHS) * len(NAME_LENGTHS) * VIT_B16_TEXT.context_length,
        "trimmed_tokens": len(CONTEXT_LENGTHS) * len(NAME_LENGTHS) * (max(CONTEXT_LENGTHS) + max(NAME_LENGTHS) + 3),
        "textbook_seconds": median(seconds["textbook"]),
        "trimmed_seconds": median(seconds["trimmed"]),
        "packed_seconds": median(seconds["packed"]),
        "speedup": median(seconds["textbook"]) / median(seconds["packed"]),
        "speedup_over_trimmed": median(seconds["trimmed"]) / median(seconds["packed"]),
        "matrix_product_gflops": rate / 1e9,
        "packed_gflop": flops / 1e9,
        "floor_seconds": flops / rate,
        "times_floor": median(seconds["packed"]) / (flops / rate),
        "worst_relative_gradient_difference": worst,
        "textbook_memory_bytes": memory["textbook"],
        "trimmed_memory_bytes": memory["trimmed"],
        "packed_memory_bytes": memory["packed"],
    }


def _memory_of(which: str) -> int | None:
    """What one step adds to the memory of a process of its own; None where the system cannot tell (it can on Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    added: int = in_own_process("benchmarks.text_encoding", {"which": which})
    return added


def answer(arguments: dict[str, Any]) -> int:
    """What a process of its own is asked for."""
    keep_freed_memory()
    step = Step()
    take = {"textbook": step.textbook_step, "trimmed": step.trimmed_step, "packed": step.packed_step}[arguments["which"]]
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from here
    before = peak_memory_bytes()
    take()
    return peak_memory_bytes() - before


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.argv[1]))))
