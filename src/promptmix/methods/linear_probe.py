"""The linear probe: logistic regression on frozen image features (CLIP, arXiv 2103.00020)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.methods.base import Method, MethodConfig
from promptmix.nn.classifier import Classifier
from promptmix.runtime import derive_seed

__all__ = ["LinearProbe", "LinearProbeConfig"]

logger = logging.getLogger(__name__)


class LinearProbeConfig(MethodConfig):
    """Options of the linear probe."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.1, 1.0, 10.0, 100.0),
        min_length=1,
        description="inverse strengths of the penalty to choose from, by cross-validation on the training shots alone",
    )
    max_iterations: int = Field(default=500, ge=1)


class LinearProbe(Method):
    """Multinomial logistic regression with an L2 penalty on normalised features.

    Differences from the paper and the reference code: the strength is chosen by cross-validation inside the training shots, from
    a short list, never on test pictures; the paper sweeps it on a validation set.
    """

    name = "linear-probe"
    config_class: ClassVar[type[MethodConfig]] = LinearProbeConfig
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "in closed form"

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, LinearProbeConfig)
        self._config = config
        self.register_buffer("weight", torch.zeros(len(class_names), backbone.config.embedding_width))
        self.register_buffer("bias", torch.zeros(len(class_names)))

    def fit_features(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        table, target = features[:, 0].double().numpy(), labels.numpy()
        present, counts = np.unique(target, return_counts=True)
        folds = min(3, int(counts.min()))
        probe = LogisticRegression(max_iter=self._config.max_iterations, tol=1e-3)
        with warnings.catch_warnings():
            # Candidates of the search may stop short; whether the probe that was chosen did is asked below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if folds < 2 or len(self._config.strengths) == 1:
                # One picture of some class: nothing can be left out, so the middle of the list has to do.
                probe.set_params(C=sorted(self._config.strengths)[len(self._config.strengths) // 2])
                probe.fit(table, target)
            else:
                splitter = StratifiedKFold(folds, shuffle=True, random_state=derive_seed(seed, "probe folds") % 2**32)
                search = GridSearchCV(probe, {"C": list(self._config.strengths)}, cv=splitter, scoring="accuracy")
                probe = search.fit(table, target).best_estimator_
        if probe.n_iter_.max() >= self._config.max_iterations:
            logger.warning(
                "the linear probe had not converged after %d iterations; raise method.max_iterations", self._config.max_iterations
            )
        weight, bias = (torch.from_numpy(value).float().to(self.weight.device) for value in (probe.coef_, probe.intercept_))
        if len(present) == 2:
            # scikit-learn gives two classes one row; as two rows of opposite halves the softmax is the same.
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        self.weight.zero_()[torch.from_numpy(present)] = weight
        # A class with no picture is never the answer.
        self.bias.fill_(-1e4)[torch.from_numpy(present)] = bias

    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        raise ConfigError(
            "a linear probe knows only the classes it saw pictures of; train it again with pictures of the new ones, or use mocoop"
        )

    def classifier(self) -> Classifier:
        return Classifier(class_features=self.weight.clone()[None], scale=1.0, class_bias=self.bias.clone())
