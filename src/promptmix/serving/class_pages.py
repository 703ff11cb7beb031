"""The pages of a server on which classes are listed and changed."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from promptmix.serving.answers import ClassList, NewClasses, NewName, classes_of
from promptmix.serving.asked import ModelName, model_of, service_of, versioned
from promptmix.serving.engine import AddClasses, ClassChange, RemoveClasses, RenameClass
from promptmix.serving.models import LoadedModel, ServedModel
from promptmix.serving.pictures import read_json
from promptmix.serving.problems import Problem, problem_responses

__all__ = ["router"]

_logger = logging.getLogger(__name__)

router = APIRouter()


@router.get("/v1/classes", response_model=ClassList, responses=problem_responses(404, 422))
async def list_classes(request: Request, model_name: ModelName = None) -> Response:
    """The classes of a model, in its order."""
    model = model_of(request, model_name)
    return versioned(classes_of(model.name, model.current))


_WITH_TOKEN: dict[str, Any] = {"security": [{"token": []}]}
_CHANGES = problem_responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)


def _json_body(kind: type[NewClasses] | type[NewName]) -> dict[str, Any]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}, **_WITH_TOKEN}


@router.post("/v1/classes", response_model=ClassList, responses=_CHANGES, openapi_extra=_json_body(NewClasses))
async def add(request: Request, model_name: ModelName = None) -> Response:
    """Add classes by name, with synonyms and descriptions if you like; nothing is retrained."""
    _refuse_stranger(request)
    model = model_of(request, model_name)
    body = read_json(await _small_body(request), NewClasses)
    assert isinstance(body, NewClasses)
    return await _changed(request, model, AddClasses(tuple(body.words())))


@router.patch("/v1/classes", response_model=ClassList, responses=_CHANGES, openapi_extra=_json_body(NewName))
async def rename(request: Request, model_name: ModelName = None) -> Response:
    """Give a class another name; its class features are made anew from it."""
    _refuse_stranger(request)
    model = model_of(request, model_name)
    body = read_json(await _small_body(request), NewName)
    assert isinstance(body, NewName)
    return await _changed(request, model, RenameClass(body.old, body.words()))


@router.delete("/v1/classes", response_model=ClassList, responses=_CHANGES, openapi_extra=_WITH_TOKEN)
async def remove(
    request: Request,
    names: Annotated[list[str], Query(alias="name", min_length=1, description="Of a class to remove; repeatable.")],
    model_name: ModelName = None,
) -> Response:
    """Remove classes."""
    _refuse_stranger(request)
    model = model_of(request, model_name)
    return await _changed(request, model, RemoveClasses(tuple(names)))


def _refuse_stranger(request: Request) -> None:
    """Raise unless classes may be changed here, and whoever asks has the token."""
    settings = service_of(request).settings
    if not settings.allow_class_changes or settings.token is None:
        detail = "classes may not be changed on this server; start it with --allow-class-changes"
        raise Problem(403, "changes-not-allowed", detail)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # Compared in constant time, so that nobody can feel their way to the token.
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), settings.token.encode()):
        raise Problem(401, "wrong-token", "send the header Authorization: Bearer and the token", {"WWW-Authenticate": "Bearer"})


async def _small_body(request: Request) -> bytes:
    service = service_of(request)
    until = asyncio.get_running_loop().time() + service.settings.time_limit
    async with service.until_stopped(), service.bodies.body_of(request, until) as body:
        return body.content


async def _changed(request: Request, model: ServedModel, change: ClassChange) -> Response:
    loaded: LoadedModel = await model.change_classes(change)
    service_of(request).changed(model)
    _logger.info("model %s is now version %s", model.name, loaded.version)
    return versioned(classes_of(model.name, loaded))
