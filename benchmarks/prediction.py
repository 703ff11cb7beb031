"""What routing costs at prediction: the mixture against plain zero-shot, after the same image tower (ViT-B/16 size, random weights)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import median, take_turns
from promptmix.backbones.configs import VisionTransformerConfig
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.nn.classifier import Classifier, Router

__all__ = ["measure_prediction"]

VIT_B16_IMAGE = VisionTransformerConfig(
    image_size=224,
    patch_size=16,
    width=768,
    layers=12,
    heads=12,
    mlp_width=3072,
    activation="quick_gelu",
    layer_norm_epsilon=1e-5,
)
NUM_IMAGES, NUM_EXPERTS, NUM_CLASSES, WIDTH = 8, 6, 100, 512


def measure_prediction(rounds: int = 7) -> dict[str, Any]:
    """Seconds for a batch of pictures: image tower, then zero-shot or mixture."""
    torch.manual_seed(0)
    tower = VisionTransformer(VIT_B16_IMAGE, WIDTH).requires_grad_(False).eval()
    pixels = torch.rand(NUM_IMAGES, 3, VIT_B16_IMAGE.image_size, VIT_B16_IMAGE.image_size)
    features = functional.normalize(torch.randn(NUM_IMAGES, WIDTH), dim=-1)
    class_features = functional.normalize(torch.randn(NUM_EXPERTS, NUM_CLASSES, WIDTH), dim=-1)
    router = Router(weight=torch.randn(NUM_EXPERTS, WIDTH), bias=torch.zeros(NUM_EXPERTS), top_k=2)
    zero_shot = Classifier(class_features=class_features[:1], scale=100.0)
    mixture = Classifier(class_features=class_features, scale=100.0, router=router)
    with torch.inference_mode():
        seconds = take_turns(
            {
                "image tower": lambda: tower(pixels),
                "zero-shot": lambda: zero_shot.logits(features),
                "mixture": lambda: mixture.logits(features),
            },
            rounds,
        )
    images, plain, routed = (median(seconds[name]) for name in ("image tower", "zero-shot", "mixture"))
    return {
        "what": f"prediction of {NUM_IMAGES} pictures, {NUM_EXPERTS} experts x {NUM_CLASSES} classes, towers of ViT-B/16 size",
        "rounds": rounds,
        "image_tower_seconds": images,
        "zero_shot_seconds": plain,
        "mixture_seconds": routed,
        "overhead_of_routing": (images + routed) / (images + plain) - 1,
        "overhead_after_the_image_tower": routed / plain - 1,
    }
