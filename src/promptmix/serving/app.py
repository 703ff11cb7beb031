"""The pages of a server."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

import promptmix
from promptmix.inference.open_classes import add_worded_classes, rename_class
from promptmix.inference.predictor import remove_classes
from promptmix.serving.answers import (
    ClassList,
    Embedded,
    ModelList,
    NewClass,
    NewClasses,
    NewName,
    Predicted,
    classes_of,
    predicted_of,
)
from promptmix.serving.batching import Answered
from promptmix.serving.metrics import Measured, Metrics
from promptmix.serving.models import EngineLoader, LoadedModel, ServedModel, named
from promptmix.serving.page import page_with_policy
from promptmix.serving.pictures import BodyReader, PictureBody, SentPicture, make_views, pictures_of, read_json
from promptmix.serving.problems import Problem, ProblemBody, answer_problems, problem_responses
from promptmix.serving.settings import Settings

__all__ = ["Service", "create_app"]

_logger = logging.getLogger(__name__)

_DECODERS = 4  # threads; each may hold a whole decoded picture

router = APIRouter()

ModelName = Annotated[str | None, Query(alias="model", description="Which model; the first one unless told otherwise.")]
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


class Service:
    """All that the pages share: limits, models, counters and the threads that decode.

    Args:
        folders: the models' folders by name; the first answers where no model is named.
        loader: makes their engines.

    Raises:
        CheckpointError, BackboneError: a model cannot be loaded.
    """

    def __init__(self, folders: Mapping[str, Path], loader: EngineLoader, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.bodies = BodyReader(settings)
        self.decoders = ThreadPoolExecutor(max_workers=_DECODERS, thread_name_prefix="promptmix-pictures")
        self.models = {name: self._served(name, folder, loader) for name, folder in folders.items()}
        self.ready = False
        for model in self.models.values():
            self._tell(model)

    async def start(self) -> None:
        """Begin to answer."""
        for model in self.models.values():
            model.batcher.start()
        self.ready = True

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, end the threads."""
        self.ready = False
        await asyncio.gather(*(model.batcher.stop() for model in self.models.values()))
        self.decoders.shutdown(wait=True, cancel_futures=True)

    async def reload_changed(self) -> None:
        """Read the folders anew that have changed."""
        for model in self.models.values():
            if await model.reload_if_changed():
                self._tell(model)

    async def watch(self) -> None:
        """Look at the folders again and again."""
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            try:
                await self.reload_changed()
            except Exception:
                _logger.exception("the model folders could not be looked at")

    def changed(self, model: ServedModel) -> None:
        """To be told of a model that has another version."""
        self._tell(model)

    def _served(self, name: str, folder: Path, loader: EngineLoader) -> ServedModel:
        def on_batch(pictures: int, seconds: float) -> None:
            self.metrics.batch_pictures.labels(name).observe(pictures)
            self.metrics.batch_seconds.labels(name).observe(seconds)

        def on_reload(worked: bool) -> None:
            self.metrics.reloads.labels(name, "read" if worked else "failed").inc()

        model = ServedModel(name, folder, loader, self.settings, on_batch=on_batch, on_reload=on_reload)
        self.metrics.queue.labels(name).set_function(lambda: model.batcher.accepted)
        return model

    def _tell(self, model: ServedModel) -> None:
        self.metrics.classes.labels(model.name).set(len(model.current.engine.class_names))
        self.metrics.version.remove_by_labels({"model": model.name})
        self.metrics.version.labels(model.name, model.current.version).set(1)


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
    answer_problems(app)
    app.add_middleware(Measured, metrics=service.metrics)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Put the problem's body into the description, and take out the framework's own, which is never sent."""
    described = app.openapi()
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    for described_by_hand in (ProblemBody, NewClass):
        schemas[described_by_hand.__name__] = described_by_hand.model_json_schema()
    for kind in ("HTTPValidationError", "ValidationError"):
        schemas.pop(kind, None)
    app.openapi_schema = described


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _model(request: Request, name: str | None) -> ServedModel:
    try:
        model = named(_service(request).models, name)
    except LookupError as problem:
        raise Problem(404, "no-model", str(problem.args[0])) from problem
    request.state.model_version = model.current.version
    return model


async def _answered(request: Request, model: ServedModel) -> tuple[list[SentPicture], Answered]:
    """The pictures of a request and what the model says of them, within the time limit."""
    service = _service(request)
    settings = service.settings
    until = asyncio.get_running_loop().time() + settings.time_limit
    async with service.bodies.body_of(request, until) as content:
        try:
            async with asyncio.timeout_at(until):
                pictures = await pictures_of(request, content, settings)
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


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answered]) -> Answered:
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


def _versioned(body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, headers={"Promptmix-Model-Version": body["version"]})


@router.post(
    "/v1/predict",
    response_model=Predicted,
    responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra=_PICTURES_BODY,
)
async def predict(request: Request, model_name: ModelName = None, top: Top = 5, experts: Experts = True) -> Response:
    """Say what is on one or many pictures: classes with probabilities, and the experts that answered."""
    model = _model(request, model_name)
    pictures, answered = await _answered(request, model)
    return _versioned(predicted_of(model.name, answered, pictures, top, experts))


@router.post(
    "/v1/embed",
    response_model=Embedded,
    responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 501, 503),
    openapi_extra=_PICTURES_BODY,
)
async def embed(request: Request, model_name: ModelName = None) -> Response:
    """The image features of one or many pictures, of length 1."""
    model = _model(request, model_name)
    _, answered = await _answered(request, model)
    if answered.output.features is None:
        raise Problem(501, "no-features", "this model's engine gives no image features; serve it with --engine torch")
    body = {"model": model.name, "version": answered.by.version, "embeddings": answered.output.features.tolist()}
    return _versioned(body)


@router.get("/v1/models", response_model=ModelList, responses=problem_responses())
async def models(request: Request) -> Response:
    """All models with their versions."""
    service = _service(request)
    every = [
        {
            "name": model.name,
            "version": model.current.version,
            "method": model.current.method,
            "backbone": model.current.backbone_name,
            "num_classes": len(model.current.engine.class_names),
            "num_experts": len(model.current.engine.expert_names),
        }
        for model in service.models.values()
    ]
    return JSONResponse({"models": every, "class_changes": service.settings.allow_class_changes})


@router.get("/v1/classes", response_model=ClassList, responses=problem_responses(404, 422))
async def list_classes(request: Request, model_name: ModelName = None) -> Response:
    """The classes of a model, in its order."""
    model = _model(request, model_name)
    return _versioned(classes_of(model.name, model.current))


_CHANGES = problem_responses(400, 401, 403, 404, 408, 413, 422, 429, 503)


def _json_body(kind: type[NewClasses] | type[NewName]) -> dict[str, Any]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/v1/classes", response_model=ClassList, responses=_CHANGES, openapi_extra=_json_body(NewClasses))
async def add(request: Request, model_name: ModelName = None) -> Response:
    """Add classes by name, with synonyms and descriptions if you like; nothing is retrained."""
    _refuse_stranger(request)
    model = _model(request, model_name)
    body = read_json(await _small_body(request), NewClasses)
    assert isinstance(body, NewClasses)
    words = body.words()
    return await _changed(request, model, lambda saved, backbone: add_worded_classes(saved, words, backbone()))


@router.patch("/v1/classes", response_model=ClassList, responses=_CHANGES, openapi_extra=_json_body(NewName))
async def rename(request: Request, model_name: ModelName = None) -> Response:
    """Give a class another name; its class features are made anew from it."""
    _refuse_stranger(request)
    model = _model(request, model_name)
    body = read_json(await _small_body(request), NewName)
    assert isinstance(body, NewName)
    old, new = body.old, body.words()
    return await _changed(request, model, lambda saved, backbone: rename_class(saved, old, new, backbone()))


@router.delete("/v1/classes", response_model=ClassList, responses=_CHANGES)
async def remove(
    request: Request,
    names: Annotated[list[str], Query(alias="name", min_length=1, description="Of a class to remove; repeatable.")],
    model_name: ModelName = None,
) -> Response:
    """Remove classes."""
    _refuse_stranger(request)
    model = _model(request, model_name)
    return await _changed(request, model, lambda saved, backbone: remove_classes(saved, names))


def _refuse_stranger(request: Request) -> None:
    """Raise unless classes may be changed here, and whoever asks has the token."""
    settings = _service(request).settings
    if not settings.allow_class_changes or settings.token is None:
        detail = "classes may not be changed on this server; start it with --allow-class-changes"
        raise Problem(403, "changes-not-allowed", detail)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # Compared in constant time, so that nobody can feel their way to the token.
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), settings.token.encode()):
        raise Problem(401, "wrong-token", "send the header Authorization: Bearer and the token", {"WWW-Authenticate": "Bearer"})


async def _small_body(request: Request) -> bytes:
    service = _service(request)
    until = asyncio.get_running_loop().time() + service.settings.time_limit
    async with service.bodies.body_of(request, until) as content:
        return content


async def _changed(request: Request, model: ServedModel, change: Any) -> Response:
    loaded: LoadedModel = await model.change_classes(change)
    _service(request).changed(model)
    _logger.info("model %s is now version %s", model.name, loaded.version)
    return _versioned(classes_of(model.name, loaded))


@router.get("/healthz", response_class=PlainTextResponse, responses=problem_responses())
async def healthz() -> Response:
    """Whether the process answers at all."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", response_class=PlainTextResponse, responses=problem_responses(503))
async def readyz(request: Request) -> Response:
    """Whether all models are loaded and requests are accepted."""
    if not _service(request).ready:
        raise Problem(503, "not-ready", "the server is starting or stopping", {"Retry-After": "1"})
    return PlainTextResponse("ready\n")


@router.get("/metrics", response_class=PlainTextResponse, responses=problem_responses())
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(_service(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


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
