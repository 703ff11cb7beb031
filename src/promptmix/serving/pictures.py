"""From the body of a request to pixels; every limit is kept before what it is to prevent."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message

from fastapi import Request
from pydantic import Field, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import View, resize_and_crop
from promptmix.config import StrictModel
from promptmix.data.images import open_picture
from promptmix.errors import DataError, listed
from promptmix.serving.problems import Problem
from promptmix.serving.settings import Settings

__all__ = ["AddressedPicture", "Body", "BodyReader", "PictureBody", "SentPicture", "make_views", "pictures_of", "read_json"]

_DATA_ADDRESS = re.compile(r"data:image/[\w.+-]{1,50};base64,")
_BODIES_IN_HAND = 8  # of the largest size, at the same time
_MOST_COMMAS = 2048  # for each picture of a request; an address has at most as many signs
_MOST_COMPLAINTS = 5
_SMALL_FORM = 2**16  # bytes; a larger one can be made to take seconds to read, and is read beside the loop, with one of its own


class PictureBody(StrictModel):
    """Pictures as JSON; those that are sent come before those that are fetched.

    Attributes:
        picture, pictures: the base64 text of a picture's file, or a list of such, with or without ``data:image/...;base64,`` before it.
        url, urls: an address that a picture is fetched from, or a list of such, where the server allows it.
    """

    picture: str | None = None
    pictures: list[str] | None = Field(default=None, min_length=1)
    url: str | None = None
    urls: list[str] | None = Field(default=None, min_length=1)


@dataclass(frozen=True, kw_only=True)
class SentPicture:
    """The bytes of one picture's file, and the name that came with it, or the address it was fetched from."""

    name: str | None
    content: bytes


@dataclass(frozen=True, kw_only=True)
class AddressedPicture:
    """A picture that is to be fetched from an address."""

    url: str


class Body:
    """A request's body while it is in hand.

    Attributes:
        content: all of it, once it is read.
    """

    def __init__(self, reader: BodyReader) -> None:
        self.content = b""
        self._reader, self._size = reader, 0

    def count(self, more: int) -> None:
        """Count bytes that come into hand for this request, be they sent or fetched.

        Raises:
            Problem: 413, they are too many for one request; 429, the server has too many in hand.
        """
        self._size += more
        self._reader.in_hand += more
        if self._size > self._reader.most:
            raise self.too_long()
        if self._reader.in_hand > _BODIES_IN_HAND * self._reader.most:
            raise Problem(429, "too-many-bytes", "too many bodies are being read; come again", {"Retry-After": "1"})

    def too_long(self) -> Problem:
        """The answer where there are too many bytes for one request."""
        detail = f"the request has more than {self._reader.most:,} bytes; send fewer or smaller pictures"
        return Problem(413, "too-many-bytes", detail)

    def release(self) -> None:
        """Let go of all that was counted."""
        self._reader.in_hand -= self._size
        self._size = 0


class BodyReader:
    """Reads bodies of at most ``max_request_bytes``, with what is fetched for them; all that are being read or decoded together
    have eight times as many.

    Attributes:
        most: bytes of one; ``in_hand``: bytes of all.
    """

    def __init__(self, settings: Settings) -> None:
        self.most, self._time_limit = settings.max_request_bytes, settings.time_limit
        self.in_hand = 0

    @contextlib.asynccontextmanager
    async def body_of(self, request: Request, until: float) -> AsyncIterator[Body]:
        """The whole body, which counts as in hand within the block.

        Args:
            until: the time of the running loop by which it has to be there.

        Raises:
            Problem: 413, it is too long; 429, the server has too many in hand; 408, it did not come in time; 400, its length is no
                number, or whoever sent it went away.
        """
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise Problem(400, "wrong-length", f"Content-Length is {length[:20]!r}, not a number of bytes")
        body = Body(self)
        if int(length) > self.most:
            raise body.too_long()
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout_at(until):
                    async for part in request.stream():
                        body.count(len(part))
                        parts.append(part)
            except ClientDisconnect as problem:
                raise Problem(400, "gone", "whoever asked has gone") from problem
            except TimeoutError as problem:
                # The connection cannot be used again: nobody knows where in it the next request would begin.
                detail = f"the body did not come within {self._time_limit:g} s; send it again, without a pause"
                raise Problem(408, "body-too-slow", detail, {"Connection": "close"}) from problem
            body.content = b"".join(parts)
            parts.clear()
            yield body
        finally:
            body.release()


def read_json(content: bytes, kind: type[StrictModel]) -> StrictModel:
    """A body of JSON as what it has to be.

    Raises:
        Problem: 400, it is no JSON; 422, it is of another shape.
    """
    try:
        json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise Problem(400, "no-json", f"the body is not JSON: {problem}") from problem
    try:
        return kind.model_validate_json(content)
    except ValidationError as problem:
        wrong = [f"{'.'.join(map(str, error['loc'])) or 'the body'}: {error['msg']}" for error in problem.errors()]
        raise Problem(422, "wrong-body", listed(wrong, _MOST_COMPLAINTS)) from problem


async def pictures_of(request: Request, content: bytes, settings: Settings) -> list[SentPicture | AddressedPicture]:
    """The pictures of a body, as files of a form, or as base64 and addresses in JSON.

    Raises:
        Problem: 415, the body is of another kind; 400 and 422, it is not what it says; 413, there are too many pictures, or one
            has too many bytes.
    """
    kind = _media_type(request.headers.get("content-type", ""))
    pictures: Sequence[SentPicture | AddressedPicture]
    if kind == "multipart/form-data":
        reading = functools.partial(_from_form, request.headers, content, settings)
        pictures = await (reading() if len(content) <= _SMALL_FORM else asyncio.to_thread(lambda: asyncio.run(reading())))
    elif kind == "application/json":
        pictures = await asyncio.to_thread(_from_json, content, settings)
    else:
        detail = f"the body is {kind or 'of no kind'}; send multipart/form-data with files, or application/json with base64"
        raise Problem(415, "unsupported-kind", detail, {"Accept": "multipart/form-data, application/json"})
    if not pictures:
        raise Problem(422, "no-picture", "there is no picture in the body; send at least one")
    for place, picture in enumerate(pictures):
        if isinstance(picture, SentPicture) and len(picture.content) > settings.max_picture_bytes:
            raise _too_large(place, settings)
    return list(pictures)


async def make_views(
    pictures: Sequence[SentPicture], preprocess: PreprocessConfig, max_pixels: int, decoders: ThreadPoolExecutor
) -> list[View]:
    """Pictures resized and cropped as the model's image tower sees them, by the decoders' threads.

    Raises:
        Problem: 422, one is no picture, is damaged, or has too many pixels.
    """

    def make(place: int, picture: SentPicture) -> View:
        try:
            return resize_and_crop(open_picture(picture.content, max_pixels=max_pixels), preprocess)
        except DataError as problem:
            named = f"picture {place + 1}" + ("" if picture.name is None else f" ({picture.name[:100]})")
            raise Problem(422, "unusable-picture", f"{named}: {problem}") from problem

    loop = asyncio.get_running_loop()
    work = [loop.run_in_executor(decoders, make, place, picture) for place, picture in enumerate(pictures)]
    try:
        return list(await asyncio.gather(*work))
    finally:
        for one in work:
            one.cancel()  # those that have not begun, where one was unusable or nobody waits any more


def _media_type(header: str) -> str:
    message = Message()
    message["content-type"] = header
    return message.get_content_type() if header.strip() else ""


async def _from_form(headers: Headers, content: bytes, settings: Settings) -> list[SentPicture]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield content

    parser = MultiPartParser(headers, stream(), max_files=settings.max_pictures, max_fields=1)
    parser.spool_max_size = settings.max_request_bytes  # all of it is in memory already; no file is made of it
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, ValueError, KeyError) as problem:
        reason = getattr(problem, "message", str(problem))
        if reason.startswith("Too many files"):
            raise _too_many(settings) from problem
        raise Problem(400, "no-form", f"the form cannot be read: {reason}") from problem
    try:
        pictures = []
        for field, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise Problem(422, "no-file", f"field {field[:50]!r} is a text, not a file; send pictures as files")
            # Forms may name a character set that has signs which no answer can hold.
            name = None if value.filename is None else value.filename.encode("utf-8", "replace").decode()
            pictures.append(SentPicture(name=name, content=await value.read()))
        return pictures
    finally:
        await form.close()


def _from_json(content: bytes, settings: Settings) -> list[SentPicture | AddressedPicture]:
    # A value takes far more memory than its two signs once it is read, and a thousand bytes where it is wrong.
    if content.count(b",") > _MOST_COMMAS * settings.max_pictures:
        raise _too_many(settings)
    body = read_json(content, PictureBody)
    assert isinstance(body, PictureBody)
    if None not in (body.picture, body.pictures) or None not in (body.url, body.urls):
        raise Problem(422, "wrong-body", "give one picture or a list of pictures, one url or a list of urls, not both")
    texts = [body.picture] if body.picture is not None else body.pictures or []
    urls = [body.url] if body.url is not None else body.urls or []
    if not texts and not urls:
        raise Problem(422, "wrong-body", "give picture, a base64 text, or pictures, a list of them; or url or urls")
    if len(texts) + len(urls) > settings.max_pictures:
        raise _too_many(settings)
    if urls and not settings.allow_urls:
        detail = "pictures are not fetched from addresses here; send the file's bytes, or start the server with --allow-urls"
        raise Problem(422, "no-address", detail)
    return [
        *(_from_base64(place, text, settings) for place, text in enumerate(texts)),
        *(AddressedPicture(url=url) for url in urls),
    ]


def _from_base64(place: int, text: str, settings: Settings) -> SentPicture:
    if text[:8].lower().startswith(("http://", "https://")):
        advice = "give it as url" if settings.allow_urls else "pictures are not fetched here, send the file's bytes"
        raise Problem(422, "no-address", f"picture {place + 1} is an address; {advice}")
    head = _DATA_ADDRESS.match(text)
    text = "".join(text[head.end() if head else 0 :].split())
    if len(text) * 3 // 4 > settings.max_picture_bytes + 2:
        raise _too_large(place, settings)
    try:
        return SentPicture(name=None, content=base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as problem:
        raise Problem(422, "no-base64", f"picture {place + 1} is not base64: {problem}") from problem


def _too_many(settings: Settings) -> Problem:
    return Problem(
        413, "too-many-pictures", f"there are more than {settings.max_pictures} pictures; send them in several requests"
    )


def _too_large(place: int, settings: Settings) -> Problem:
    detail = f"picture {place + 1} has more than {settings.max_picture_bytes:,} bytes; make it smaller"
    return Problem(413, "too-many-bytes", detail)
