"""Who is asked: what the pages take from a request before they do anything."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse

from promptmix.serving.models import ServedModel, named
from promptmix.serving.problems import Problem
from promptmix.serving.service import Service

__all__ = ["ModelName", "model_of", "service_of", "versioned"]

ModelName = Annotated[str | None, Query(alias="model", description="Which model; the first one unless told otherwise.")]


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def model_of(request: Request, name: str | None) -> ServedModel:
    """The model that is asked; its version goes with whatever is answered.

    Raises:
        Problem: 404, there is none of this name.
    """
    try:
        model = named(service_of(request).models, name)
    except LookupError as problem:
        raise Problem(404, "no-model", str(problem.args[0])) from problem
    request.state.model_version = model.current.version
    return model


def versioned(body: dict[str, Any]) -> JSONResponse:
    """An answer of a model, with its version as a header too."""
    return JSONResponse(body, headers={"Promptmix-Model-Version": body["version"]})
