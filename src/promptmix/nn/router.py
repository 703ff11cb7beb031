"""The router: which experts answer for a picture, and with what weight."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["expert_products", "mixture_logits", "router_target", "routing_weights"]


def routing_weights(router_logits: Float[Tensor, "image expert"], top_k: int) -> Float[Tensor, "image expert"]:
    """Softmax over each picture's ``top_k`` highest router logits, 0 for the other experts; rows sum to 1."""
    if top_k >= router_logits.shape[1]:
        return router_logits.softmax(dim=1)
    values, experts = router_logits.topk(top_k, dim=1)
    return torch.zeros_like(router_logits).scatter(1, experts, values.softmax(dim=1))


def expert_products(class_features: Float[Tensor, "expert class embedding"]) -> Float[Tensor, "expert expert class"]:
    """The products of the experts' features with one another, for each class; no picture is needed for them."""
    return torch.einsum("gcd,hcd->ghc", class_features, class_features)


def mixture_logits(
    image_features: Float[Tensor, "image embedding"],
    class_features: Float[Tensor, "expert class embedding"],
    weights: Float[Tensor, "image expert"],
    scale: float,
    renormalise: bool = False,
    products: Float[Tensor, "expert expert class"] | None = None,
) -> Float[Tensor, "image class"]:
    """``scale * sum_g weights[b,g] <v_b, e[g,c]>``: the logits of the weighted mean of the experts' features.

    With ``renormalise`` the weighted mean is brought back to length 1. Its length needs only the products of the experts with
    one another for each class, so no tensor of image x class x embedding is ever formed.

    Args:
        products: what :func:`expert_products` gives, where it is known already.
    """
    num_experts, num_classes, _ = class_features.shape
    cosines = (image_features @ class_features.flatten(0, 1).T).unflatten(1, (num_experts, num_classes))
    mixed = torch.einsum("bg,bgc->bc", weights, cosines)
    if renormalise:
        gram = expert_products(class_features) if products is None else products
        pairs = weights[:, :, None] * weights[:, None, :]
        squared = pairs.flatten(1) @ gram.flatten(0, 1)
        mixed = mixed / squared.clamp_min(1e-12).sqrt()
    return scale * mixed


def router_target(
    image_features: Float[Tensor, "image embedding"],
    prototypes: Float[Tensor, "expert class embedding"],
    labels: Int[Tensor, "image"] | None,
    top_k: int,
    bonus: float,
) -> Float[Tensor, "image expert"]:
    """What the router should say: the experts whose hard prompts already fit the picture.

    Softmax over experts of ``<v_b, q[g, y_b]>``, the ``top_k`` largest raised by ``bonus``; without labels, the class is
    unknown and the mean over classes takes the place of the true class.
    """
    if labels is None:
        fit = image_features @ prototypes.mean(dim=1).T
    else:
        fit = torch.einsum("bd,gbd->bg", image_features, prototypes[:, labels])
    best = fit.topk(min(top_k, fit.shape[1]), dim=1).indices
    raised = fit + bonus * torch.zeros_like(fit).scatter(1, best, 1.0)
    return functional.softmax(raised, dim=1)
