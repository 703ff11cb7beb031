"""Every error as problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from promptmix.config import StrictModel
from promptmix.errors import BackboneError, CheckpointError, ConfigError, DataError, printable

__all__ = ["Problem", "ProblemBody", "answer_problems", "problem_responses"]

_logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_STATUS_OF = {DataError: 422, ConfigError: 422, CheckpointError: 500, BackboneError: 500}
_MEANINGS = {
    400: "The body cannot be read as what it claims to be.",
    401: "The token is missing or wrong.",
    403: "Classes may not be changed on this server.",
    404: "There is no such page or model.",
    405: "The page knows another method.",
    408: "The body did not come within the time limit.",
    409: "The classes of this model are fixed, because it is an exported one.",
    413: "The body, a picture or the number of pictures is over a limit.",
    415: "The body is of another kind than the page takes.",
    422: "The body can be read but not be used: a picture that is none, an option out of range, a class that is there.",
    429: "Too many pictures are waiting; Retry-After says in how many seconds to come again.",
    500: "The server failed; its log says why.",
    501: "The model's engine cannot do this.",
    503: "The time limit passed, or the server is stopping.",
}


class ProblemBody(StrictModel):
    """The body of an error.

    Attributes:
        type: which kind of problem it is: ``urn:promptmix:problem:`` and a word.
        title: the status in words; ``status`` its number.
        detail: what was wrong this time, and what to do.
    """

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        kind: a word of its ``type``.
        detail: one line for a person.
        headers: more of the answer's headers.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers = status, kind, detail, dict(headers or {})

    def response(self, headers: Mapping[str, str]) -> JSONResponse:
        body = {
            "type": f"urn:promptmix:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": printable(" ".join(self.detail.split())),
        }
        return JSONResponse(body, status_code=self.status, headers={**headers, **self.headers}, media_type=MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the description of a route says of its errors."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in sorted({*statuses, 500})}


def answer_problems(app: FastAPI) -> None:
    """Make all errors of an app, those of the framework too, answers of this kind."""

    async def own(request: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, Problem)
        return problem.response(_version_header(request))

    async def framework(request: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, HTTPException)
        kind = {404: "not-found", 405: "method-not-allowed"}.get(problem.status_code, "refused")
        detail = {
            404: f"there is no page {request.url.path}; /openapi.json lists all",
            405: f"{request.url.path} does not take {request.method}",
        }.get(problem.status_code, str(problem.detail))
        return Problem(problem.status_code, kind, detail, problem.headers).response({})

    async def validation(request: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, RequestValidationError)
        wrong = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in problem.errors()]
        return Problem(422, "wrong-option", "; ".join(wrong)).response(_version_header(request))

    async def expected(request: Request, problem: Exception) -> JSONResponse:
        status = next(status for kind, status in _STATUS_OF.items() if isinstance(problem, kind))
        if status == 500:
            _logger.error("%s %s: %s", request.method, request.url.path, problem)
            return Problem(500, "model", "the model cannot be used; the server's log says why").response(_version_header(request))
        return Problem(status, "unusable", str(problem)).response(_version_header(request))

    async def unexpected(request: Request, problem: Exception) -> JSONResponse:
        _logger.error("%s %s: unexpected %s: %s", request.method, request.url.path, type(problem).__name__, problem)
        return Problem(500, "unexpected", "the server failed; its log says why").response(_version_header(request))

    app.add_exception_handler(Problem, own)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, validation)
    for kind in _STATUS_OF:
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(Exception, unexpected)


def _version_header(request: Request) -> dict[str, str]:
    """The version of the model that was asked, where the request came that far."""
    version = getattr(request.state, "model_version", None)
    return {} if version is None else {"Promptmix-Model-Version": version}
