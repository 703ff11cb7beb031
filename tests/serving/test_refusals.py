"""Whatever is wrong with a request, the answer is a problem that says so, and the next request is answered."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import zlib

import pytest
from PIL import Image
from tests.serving.conftest import TOKEN, HeldEngine, Services, client_of, is_problem

FORM = {"content-type": "multipart/form-data; boundary=x"}
JSON = {"content-type": "application/json"}


def claims_to_be(width: int, height: int) -> bytes:
    """A PNG whose header promises more than there is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT" + b"\0" * 8
    )


def part(content: bytes, head: str = 'form-data; name="picture"; filename="a.png"') -> bytes:
    return b"--x\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + content + b"\r\n--x--\r\n"


BODIES = {
    "nothing": (b"", {}, 415, "unsupported-kind"),
    "another kind": (b"abc", {"content-type": "text/plain"}, 415, "unsupported-kind"),
    "no kind at all": (b"abc", {"content-type": ";;;"}, 415, "unsupported-kind"),
    "no boundary": (b"abc", {"content-type": "multipart/form-data"}, 400, "no-form"),
    "no form": (b"abc", FORM, 400, "no-form"),
    "an empty form": (b"--x--\r\n", FORM, 422, "no-picture"),
    "a field that is a text": (part(b"abc", 'form-data; name="picture"'), FORM, 422, "no-file"),
    "a part without a name": (part(b"abc", "form-data"), FORM, 400, "no-form"),
    "an empty file": (part(b""), FORM, 422, "unusable-picture"),
    "a file that is no picture": (part(b"GIF89a"), FORM, 422, "unusable-picture"),
    "a bomb": (part(claims_to_be(60000, 60000)), FORM, 422, "unusable-picture"),
    "more pixels than allowed": (part(claims_to_be(2000, 2000)), FORM, 422, "unusable-picture"),
    "no JSON": (b"{", JSON, 400, "no-json"),
    "JSON in another encoding": (b'{"picture": "\xff"}', JSON, 400, "no-json"),
    "deep JSON": (b"[" * 100_000, JSON, 400, "no-json"),
    "a list": (b"[]", JSON, 422, "wrong-body"),
    "an unknown key": (b'{"image": "YQ=="}', JSON, 422, "wrong-body"),
    "a number": (b'{"picture": 7}', JSON, 422, "wrong-body"),
    "neither": (b"{}", JSON, 422, "wrong-body"),
    "both": (b'{"picture": "YQ==", "pictures": ["YQ=="]}', JSON, 422, "wrong-body"),
    "no pictures": (b'{"pictures": []}', JSON, 422, "wrong-body"),
    "no base64": (b'{"picture": "?"}', JSON, 422, "no-base64"),
    "base64 cut off": (b'{"picture": "YQ="}', JSON, 422, "no-base64"),
    "base64 of no picture": (b'{"picture": "YQ=="}', JSON, 422, "unusable-picture"),
    "an address for a picture": (b'{"picture": "http://127.0.0.1/a.png"}', JSON, 422, "no-address"),
    "an address": (b'{"url": "http://127.0.0.1/a.png"}', JSON, 422, "no-address"),
    "addresses": (b'{"picture": "YQ==", "urls": ["http://127.0.0.1/a.png"]}', JSON, 422, "no-address"),
    "no addresses": (b'{"urls": []}', JSON, 422, "wrong-body"),
    "one address and many": (b'{"url": "http://a/", "urls": ["http://b/"]}', JSON, 422, "wrong-body"),
    "too many addresses": (b'{"pictures": ["YQ==", "YQ=="], "urls": ["http://a/", "http://b/"]}', JSON, 413, "too-many-pictures"),
    "too many pictures": (b'{"pictures": ["YQ==", "YQ==", "YQ==", "YQ=="]}', JSON, 413, "too-many-pictures"),
    "too many files": (part(b"a")[:-7] * 4 + b"\r\n--x--\r\n", FORM, 413, "too-many-pictures"),
    "too many numbers": (b'{"pictures": [' + b"0," * (3 * 2048 + 1) + b"0]}", JSON, 413, "too-many-pictures"),
    "many numbers": (b'{"pictures": [' + b"0," * 3 * 2048 + b"0]}", JSON, 422, "wrong-body"),
    "many unknown keys": (json.dumps({f"a{n}": 0 for n in range(6000)}).encode(), JSON, 422, "wrong-body"),
    "a picture of too many bytes": (b'{"picture": "' + base64.b64encode(b"a" * 60_001) + b'"}', JSON, 413, "too-many-bytes"),
    "a file of too many bytes": (part(b"a" * 60_001), FORM, 413, "too-many-bytes"),
    "a body of too many bytes": (part(b"a" * 200_001), FORM, 413, "too-many-bytes"),
}


@pytest.fixture
def engine(trained: object) -> HeldEngine:
    from promptmix.backbones.registry import load_backbone

    return HeldEngine(load_backbone(device="cpu").config.preprocess)


def test_every_malformed_body_is_a_problem(service: Services, engine: HeldEngine, pictures: list[bytes]) -> None:
    made = service(engine, max_pictures=3, max_picture_bytes=60_000, max_request_bytes=200_000, max_pixels=1_000_000)

    async def ask() -> None:
        async with client_of(made) as client:
            for name, (content, headers, status, kind) in BODIES.items():
                answer = await client.post("/v1/predict", content=content, headers=headers)
                assert answer.status_code == status, (name, answer.text)
                assert 0 < len(is_problem(answer, status, kind)) < 1000, name
                assert answer.headers["promptmix-model-version"]
            assert not engine.sizes, "no picture of these may reach the model"
            fine = await client.post("/v1/predict", files={"picture": pictures[0]})
            assert fine.status_code == 200
            assert next(iter(made.models.values())).batcher.accepted == 0

    asyncio.run(ask())


def test_a_body_without_a_length_is_limited_too(service: Services, engine: HeldEngine) -> None:
    async def ask() -> None:
        async with client_of(service(engine, max_request_bytes=10_000)) as client:
            sent = 0

            async def endless():  # type: ignore[no-untyped-def]
                nonlocal sent
                while True:
                    sent += 1000
                    yield b"a" * 1000

            answer = await client.post("/v1/predict", content=endless(), headers=FORM)
            is_problem(answer, 413, "too-many-bytes")
            assert sent <= 20_000

    asyncio.run(ask())


def test_the_bad_one_of_several_is_named(service: Services, engine: HeldEngine, pictures: list[bytes]) -> None:
    async def ask() -> None:
        async with client_of(service(engine)) as client:
            files = [("picture", ("good.png", pictures[0])), ("picture", ("b\u202ead.png", pictures[1][:100]))]
            detail = is_problem(await client.post("/v1/predict", files=files), 422, "unusable-picture")
            assert detail.startswith("picture 2 (")

    asyncio.run(ask())


NAMES_OF_FILES = [
    (b"../../etc/passwd", "utf-8", "../../etc/passwd"),
    (b"a\0b.jpg", "utf-8", "a\0b.jpg"),
    (b"\xff\xfe", "utf-8", "\xff\xfe"),
    (b"+2AA-", "utf-7", "?"),  # half of a pair, which no UTF-8 can hold
    (b"\\\\ud800", "unicode_escape", "?"),
    (b"a", "undefined", None),
]


@pytest.mark.parametrize(("name", "charset", "said"), NAMES_OF_FILES)
def test_any_name_of_a_file_can_be_said_again(
    service: Services, engine: HeldEngine, pictures: list[bytes], name: bytes, charset: str, said: str | None
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="' + name + b'"\r\n\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}

    async def ask() -> None:
        async with client_of(service(engine)) as client:
            answer = await client.post("/v1/predict", content=head + pictures[0] + b"\r\n--x--\r\n", headers=headers)
            if said is None:
                is_problem(answer, 400, "no-form")
            else:
                assert answer.status_code == 200, answer.text
                assert answer.json()["predictions"][0]["name"] == said

    asyncio.run(ask())


def test_paths_methods_options_and_models(service: Services, engine: HeldEngine) -> None:
    async def ask() -> None:
        async with client_of(service(engine)) as client:
            is_problem(await client.get("/nowhere"), 404, "not-found")
            is_problem(await client.get("/v1/predict"), 405, "method-not-allowed")
            is_problem(await client.post("/v1/predict?top=0"), 422, "wrong-option")
            is_problem(await client.post("/v1/predict?top=x"), 422, "wrong-option")
            detail = is_problem(await client.get("/v1/classes?model=drawing"), 404, "no-model")
            assert "did you mean 'drawings'" in detail
            text = (await client.get("/metrics")).text
            assert 'route="none",status="404"' in text
            assert "nowhere" not in text

    asyncio.run(ask())


def test_what_fails_within_is_told_without_its_inside(service: Services, engine: HeldEngine, pictures: list[bytes]) -> None:
    def broken(pixels: object) -> None:
        raise RuntimeError("secret")

    engine.run = broken  # type: ignore[method-assign, assignment]

    async def ask() -> None:
        async with client_of(service(engine)) as client:
            answer = await client.post("/v1/predict", files={"picture": pictures[0]})
            is_problem(answer, 500, "unexpected")
            assert "secret" not in answer.text
            assert 'route="/v1/predict",status="500"' in (await client.get("/metrics")).text
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(ask())


def test_a_large_picture_within_the_limits_is_fine(service: Services, engine: HeldEngine) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1000, 1000), "white").save(stream, "PNG")

    async def ask() -> None:
        async with client_of(service(engine, max_pixels=1_000_000)) as client:
            answer = await client.post("/v1/embed", files={"picture": stream.getvalue()})
            assert answer.json()["embeddings"] == [[255.0]]

    asyncio.run(ask())


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer t\xf6ken"])
def test_classes_need_the_token(service: Services, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.encode("latin-1")}

    async def ask() -> None:
        async with client_of(service(allow_class_changes=True, token=TOKEN)) as client:
            answers = [
                await client.post("/v1/classes", json={"classes": ["heart"]}, headers=headers),
                await client.patch("/v1/classes", json={"old": "cat", "name": "heart"}, headers=headers),
                await client.delete("/v1/classes?name=cat", headers=headers),
            ]
            for answer in answers:
                is_problem(answer, 401, "wrong-token")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert len((await client.get("/v1/classes")).json()["classes"]) == 4

    asyncio.run(ask())


def test_classes_stay_as_they_are_unless_changes_are_allowed(service: Services, engine: HeldEngine) -> None:
    async def ask() -> None:
        async with client_of(service(engine, token=TOKEN)) as client:
            headers = {"authorization": f"Bearer {TOKEN}"}
            is_problem(await client.post("/v1/classes", json={"classes": ["x"]}, headers=headers), 403, "changes-not-allowed")
            is_problem(await client.delete("/v1/classes?name=cat", headers=headers), 403, "changes-not-allowed")

    asyncio.run(ask())
