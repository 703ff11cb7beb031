"""What a server may do and how much of it: every limit with its default."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from promptmix.config import StrictModel

__all__ = ["Settings"]


class Settings(StrictModel):
    """Limits of a server.

    Attributes:
        max_batch: pictures the model is shown at once.
        max_wait: milliseconds that a batch waits for more pictures once it has one.
        max_queue: pictures of one model that are accepted and not yet answered, at most; more get 429.
        time_limit: seconds from the head of a request to its answer.
        stop_limit: seconds that a stopping server has to answer what it accepted.
        max_request_bytes: of a request's body.
        max_picture_bytes: of one picture's file.
        max_pixels: of one picture, known from its header before it is decoded.
        max_pictures: in one request.
        allow_class_changes: whether classes may be changed over HTTP; ``token`` is then asked for.
        token: what stands behind ``Authorization: Bearer``.
        allow_urls: whether pictures are fetched from addresses.
        url_time_limit: seconds to fetch one picture, from its name to its last byte, with all that it is redirected to.
        url_ports: that may be asked for a picture.
        watch_seconds: how often the models are looked at for a change.
    """

    max_batch: int = Field(default=32, ge=1)
    max_wait: float = Field(default=5.0, ge=0)
    max_queue: int = Field(default=256, ge=1)
    time_limit: float = Field(default=30.0, gt=0)
    stop_limit: float = Field(default=20.0, gt=0)
    max_request_bytes: int = Field(default=32 * 2**20, ge=1)
    max_picture_bytes: int = Field(default=16 * 2**20, ge=1)
    max_pixels: int = Field(default=40_000_000, ge=1)
    max_pictures: int = Field(default=32, ge=1)
    allow_class_changes: bool = False
    token: str | None = Field(default=None, min_length=8, repr=False)
    allow_urls: bool = False
    url_time_limit: float = Field(default=10.0, gt=0)
    url_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(default=(80, 443), min_length=1)
    watch_seconds: float = Field(default=1.0, gt=0)
