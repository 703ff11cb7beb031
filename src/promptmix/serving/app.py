"""The pages of a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

import promptmix
from promptmix.cards.content import public_backbone_name
from promptmix.serving import class_pages
from promptmix.serving.answers import Embedded, ModelList, NewClass, Predicted, predicted_of
from promptmix.serving.asked import ModelName, model_of, service_of, versioned
from promptmix.serving.batching import Answered
from promptmix.serving.metrics import Measured
from promptmix.serving.models import ServedModel
from promptmix.serving.page import page_with_policy
from promptmix.serving.pictures import PictureBody, SentPicture, make_views, pictures_of
from promptmix.serving.problems import Problem, ProblemBody, answer_problems, problem_responses
from promptmix.serving.service import Service

__all__ = ["create_app"]

Worked = TypeVar("Worked")

router = APIRouter()

Top = Annotated[int, Query(ge=1, le=1000, description="Classes to list for each picture.")]
Experts = Annotated[bool, Query(description="Whether to list the experts that answered.")]

_PICTURES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"picture": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {"schema": PictureBody.model_json_schema()},
        },
    }
}


def create_app(service: Service) -> FastAPI:
    """The app of a service; its life is the service's."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        watching = asyncio.get_running_loop().create_task(service.watch())
        try:
            yield
        finally:
            watching.cancel()
            await service.stop()

    app = FastAPI(
        title="promptmix",
        version=promptmix.__version__,
        description="Says what is on pictures, by models that have learnt prompts.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(class_pages.router)
    answer_problems(app)
    app.add_middleware(Measured, metrics=service.metrics)
    _complete_description(app)
    return app


def _complete_description(app: FastAPI) -> None:
    """Put the problem's body and the token into the description, and take out the framework's own problems, which are never sent."""
    described = app.openapi()
    components = described.setdefault("components", {})
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schemas = components.setdefault("schemas", {})
    for described_by_hand in (ProblemBody, NewClass):
        schemas[described_by_hand.__name__] = described_by_hand.model_json_schema()
    for kind in ("HTTPValidationError", "ValidationError"):
        schemas.pop(kind, None)
    app.openapi_schema = described


async def _answered(request: Request, model: ServedModel) -> tuple[list[SentPicture], Answered]:
    """The pictures of a request and what the model says of them, within the time limit."""
    service = service_of(request)
    settings = service.settings
    until = asyncio.get_running_loop().time() + settings.time_limit
    async with service.until_stopped(), service.bodies.body_of(request, until) as body:
        try:
            async with asyncio.timeout_at(until):
                sent = await pictures_of(request, body.content, settings)
                body.content = b""  # the pictures have been copied out of it
                pictures = await _unless_gone(request, service.fetcher.fetch_all(sent, body.count))
                with model.batcher.room(len(pictures)):
                    made_for = model.current

                    async def work() -> Answered:
                        views = await make_views(pictures, made_for.engine.preprocess, settings.max_pixels, service.decoders)
                        return await model.batcher.answer(views, made_for)

                    answered = await _unless_gone(request, work())
        except TimeoutError as problem:
            detail = f"there was no answer within {settings.time_limit:g} s; send fewer pictures, or come again later"
            raise Problem(503, "time-limit", detail, {"Retry-After": "5"}) from problem
    request.state.model_version = answered.by.version
    return pictures, answered


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Worked]) -> Worked:
    """What the work gives; it is dropped where whoever asked for it goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    loop = asyncio.get_running_loop()
    working, leaving = loop.create_task(work), loop.create_task(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem(400, "gone", "whoever asked has gone")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


@router.post(
    "/v1/predict",
    response_model=Predicted,
    responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra=_PICTURES_BODY,
)
async def predict(request: Request, model_name: ModelName = None, top: Top = 5, experts: Experts = True) -> Response:
    """Say what is on one or many pictures: classes with probabilities, and the experts that answered."""
    model = model_of(request, model_name)
    pictures, answered = await _answered(request, model)
    return versioned(predicted_of(model.name, answered, pictures, top, experts))


@router.post(
    "/v1/embed",
    response_model=Embedded,
    responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 501, 503),
    openapi_extra=_PICTURES_BODY,
)
async def embed(request: Request, model_name: ModelName = None) -> Response:
    """The image features of one or many pictures, of length 1."""
    model = model_of(request, model_name)
    _, answered = await _answered(request, model)
    if answered.output.features is None:
        raise Problem(501, "no-features", "this model's engine gives no image features; serve it with --engine torch")
    body = {"model": model.name, "version": answered.by.version, "embeddings": answered.output.features.tolist()}
    return versioned(body)


@router.get("/v1/models", response_model=ModelList, responses=problem_responses())
async def models(request: Request) -> Response:
    """All models with their versions."""
    service = service_of(request)
    every = [
        {
            "name": model.name,
            "version": model.current.version,
            "method": model.current.method,
            "backbone": public_backbone_name(model.current.backbone_name),
            "num_classes": len(model.current.engine.class_names),
            "num_experts": len(model.current.engine.expert_names),
            "class_changes": service.settings.allow_class_changes and model.changes_classes,
        }
        for model in service.models.values()
    ]
    return JSONResponse({"models": every, "class_changes": service.settings.allow_class_changes})


@router.get("/healthz", response_class=PlainTextResponse, responses=problem_responses())
async def healthz() -> Response:
    """Whether the process answers at all."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", response_class=PlainTextResponse, responses=problem_responses(503))
async def readyz(request: Request) -> Response:
    """Whether all models are loaded and requests are accepted."""
    if not service_of(request).ready:
        raise Problem(503, "not-ready", "the server is starting or stopping", {"Retry-After": "1"})
    return PlainTextResponse("ready\n")


@router.get("/metrics", response_class=PlainTextResponse, responses=problem_responses())
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> Response:
    """A page to try it in a browser."""
    content, policy = page_with_policy()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(content, headers=headers)
