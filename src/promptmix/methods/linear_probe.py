"""The linear probe: logistic regression on frozen image features (CLIP, arXiv 2103.00020)."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.methods.base import Method, MethodConfig
from promptmix.nn.classifier import Classifier
from promptmix.prompts.hard import ensemble_features
from promptmix.prompts.templates import parse_template
from promptmix.runtime import derive_seed

__all__ = ["LinearProbe", "LinearProbeConfig", "RegressionFromStart"]

logger = logging.getLogger(__name__)


class LinearProbeConfig(MethodConfig):
    """Options of the linear probe."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.1, 1.0, 10.0, 100.0),
        min_length=1,
        description="inverse strengths of the penalty to choose from, by cross-validation on the training shots alone",
    )
    max_iterations: int = Field(default=500, ge=1)
    start: Literal["zero", "text"] = Field(
        default="zero",
        description="where the weights start, and what the penalty pulls them to: 0, or the class features of a text",
    )
    template: str = Field(default="a photo of a {}.", description="the text, for start=text")


class LinearProbe(Method):
    """Multinomial logistic regression with an L2 penalty on normalised features.

    With ``start: text`` the weights of class c start from ``s * t_c``, s = exp(logit_scale) and t_c the class feature of a template, and
    the penalty pulls them there instead of to 0; there is no bias. Where the pictures say nothing it is zero-shot classification, and
    so a class added by name, or one without pictures, has the weights ``s * t_c`` and competes with the others.

    Differences from the paper and the reference code: the strength is chosen by cross-validation inside the training shots, from
    a short list, never on test pictures; the paper sweeps it on a validation set and starts from 0.
    """

    name = "linear-probe"
    config_class: ClassVar[type[MethodConfig]] = LinearProbeConfig
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "in closed form"

    weight: Tensor
    bias: Tensor | None

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
        self._from_text = config.start == "text"
        self.register_buffer("weight", torch.zeros(len(class_names), backbone.config.embedding_width))
        self.register_buffer("bias", None if self._from_text else torch.zeros(len(class_names)))
        if self._from_text:
            self.weight = self._text.clone()

    @functools.cached_property
    def _text(self) -> Float[Tensor, "class embedding"]:
        return self._encode_text(self.class_names)

    def _encode_text(self, class_names: Sequence[str]) -> Float[Tensor, "class embedding"]:
        tower, tokenizer = self._backbone.require_text()
        return ensemble_features(tower, tokenizer, [parse_template(self._config.template)], class_names)

    def fit_features(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        table, target = features[:, 0].double().numpy(), labels.numpy()
        present, counts = np.unique(target, return_counts=True)
        folds = min(3, int(counts.min()))
        probe = LogisticRegression(max_iter=self._config.max_iterations, tol=1e-3)
        if self._from_text:
            start = self._backbone.logit_scale * self._text.cpu().double().numpy()
            probe = RegressionFromStart(start[present], max_iter=self._config.max_iterations)
        with warnings.catch_warnings():
            # Candidates of the search may stop short; whether the probe that was chosen did is asked below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            # With a picture or two of each of many classes scikit-learn asks whether the labels are quantities.
            warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%", category=UserWarning)
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
        if self.bias is None:
            self.weight.copy_(self._text)[torch.from_numpy(present)] = weight / self._backbone.logit_scale
            return
        if len(present) == 2:
            # scikit-learn gives two classes one row; as two rows of opposite halves the softmax is the same.
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        self.weight.zero_()[torch.from_numpy(present)] = weight
        # A class with no picture is never the answer.
        self.bias.fill_(-1e4)[torch.from_numpy(present)] = bias

    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        if not self._from_text:
            raise ConfigError(
                "a linear probe knows only the classes it saw pictures of; train it again with pictures of the new ones, or with"
                " method.start=text, or use mocoop"
            )
        known = [self.class_names.index(name) if name in self.class_names else -1 for name in class_names]
        places = torch.tensor(known, device=self.weight.device)
        return torch.where((places >= 0)[:, None], self.weight[places.clamp_min(0)], self._encode_text(class_names))[None]

    def classifier(self) -> Classifier:
        return Classifier(
            class_features=self.weight.clone()[None],
            scale=self._backbone.logit_scale if self._from_text else 1.0,
            class_bias=None if self.bias is None else self.bias.clone(),
        )


class RegressionFromStart(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Multinomial logistic regression without a bias whose penalty pulls the weights to where they start.

    Minimises ``C * sum_i cross-entropy_i + |W - start|^2 / 2`` as scikit-learn's, whose start is 0: with ``W = start + change`` the
    products with ``start`` are fixed logits, to which those of the change are added.

    Args:
        start: a row for each class, in the order of the sorted labels.
        tol: of the largest entry of the gradient of the objective, divided by C and the number of pictures.
    """

    def __init__(
        self, start: Float[np.ndarray, "class embedding"], C: float = 1.0, max_iter: int = 500, tol: float = 1e-4
    ) -> None:
        self.start = start
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Float[np.ndarray, "image embedding"], y: Int[np.ndarray, "image"]) -> RegressionFromStart:
        self.classes_, target = np.unique(y, return_inverse=True)
        table, labels, start = torch.from_numpy(X), torch.from_numpy(target), torch.from_numpy(self.start)
        fixed = table @ start.T
        change = torch.zeros_like(start, requires_grad=True)
        solver = torch.optim.LBFGS(
            [change],
            max_iter=self.max_iter,
            max_eval=10 * self.max_iter,  # the line search asks more than once an iteration
            tolerance_grad=self.tol,
            line_search_fn="strong_wolfe",
        )

        def objective() -> float:
            solver.zero_grad()
            penalty = change.square().sum() / (2 * self.C * len(labels))
            loss = functional.cross_entropy(fixed + table @ change.T, labels) + penalty
            loss.backward()
            return float(loss.detach())

        solver.step(objective)
        self.coef_ = (start + change.detach()).numpy()
        self.intercept_ = np.zeros(len(self.start))
        self.n_iter_ = np.array([solver.state[change]["n_iter"]])
        return self

    def predict(self, X: Float[np.ndarray, "image embedding"]) -> Int[np.ndarray, "image"]:
        said: Int[np.ndarray, "image"] = self.classes_[(X @ self.coef_.T).argmax(axis=1)]
        return said
