"""Pictures from addresses: nothing but the public internet is ever asked, and nothing without an end. Only the loopback is."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from tests.serving.conftest import HeldEngine, Services, client_of, is_problem
from tests.serving.web import HERE, OK, THERE, Page, Web, in_chunks, to, whole

from promptmix.backbones.registry import load_backbone
from promptmix.serving.addresses import is_public, web_address
from promptmix.serving.fetching import Connect, connect, resolve
from promptmix.serving.pictures import AddressedPicture
from promptmix.serving.problems import Problem
from promptmix.serving.settings import Settings

NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.254 127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.1
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1
    198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:93.184.215.14 64:ff9b::7f00:1 64:ff9b::5db8:d70e 64:ff9b:1::1
    100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1 2002:a00:1::1 3fff::1
    4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1 nowhere 127.1
"""
LOOPBACK = """
    127.0.0.1 127.1 2130706433 0x7f000001 0177.0.0.1 0x7f.1 017700000001 0 localhost LOCALHOST. [::1] [::ffff:127.0.0.1]
    [::ffff:7f00:1] [0:0:0:0:0:0:0:1]
"""


def fetched(web: Web, *urls: str, count: Callable[[int], None] = lambda more: None, **settings: object) -> list[bytes]:
    """What the addresses give."""

    async def work() -> list[bytes]:
        async with web.open():
            fetcher = web.fetcher(Settings.model_validate({"allow_urls": True, **settings}))
            try:
                found = await fetcher.fetch_all([AddressedPicture(url=url) for url in urls], count)
            finally:
                fetcher.close()
        assert [one.name for one in found] == list(urls)
        return [one.content for one in found]

    return asyncio.run(work())


def refused(web: Web, url: str, kind: str, status: int = 422, **settings: object) -> str:
    """That an address is refused in this way; the detail."""
    with pytest.raises(Problem) as caught:
        fetched(web, url, **settings)
    assert (caught.value.kind, caught.value.status) == (kind, status), caught.value.detail
    assert caught.value.detail.startswith("picture 1")
    assert "secret" not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("ip_address", NOT_PUBLIC.split())
def test_what_is_not_public_is_refused(ip_address: str) -> None:
    assert not is_public(ip_address)
    web = Web({}, {"inside.example": [ip_address]})
    detail = refused(web, "http://inside.example/a.png", "address-out-of-reach")
    assert web.asked == []
    # Nobody learns which of the names within there are.
    assert detail == refused(web, "http://nothing.example/a.png", "address-out-of-reach")


def test_what_is_public_is_not_refused() -> None:
    for ip_address in (HERE, THERE, "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.32.0.1"):
        assert is_public(ip_address), ip_address
    for ip_address in ("192.167.255.255", "223.255.255.255", "2001:200::1", "2001:4860:4860::8888", "2a00::1", "3ffe::1"):
        assert is_public(ip_address), ip_address


@pytest.mark.parametrize("host", LOOPBACK.split())
def test_the_loopback_is_refused_however_it_is_spelt(host: str) -> None:
    """By the system's own look-up, which none of these leaves this machine for."""
    web = Web({})
    web.resolve = resolve  # type: ignore[method-assign]
    refused(web, f"http://{host}/a.png", "address-out-of-reach")
    assert web.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.png",
        "//here.example/a.png",
        "ftp://here.example/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,YQ==",
        "http://",
        "http:///a.png",
        "http://here.example:22/",
        "http://here.example:8080/",
        "http://here.example:0/",
        "http://here.example:99999/",
        "http://here.example:x/",
        "http://user@here.example/",
        "http://user:word@here.example/",
        "http://@here.example/",
        "http://here.example\\@127.0.0.1/",
        "http://here.example/a b",
        "http://here.example/a\r\nHost: elsewhere",
        "http://here.example/\u00e9",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://here.example/" + "a" * 2048,
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    web = Web({})
    refused(web, url, "wrong-address")
    assert (web.looked_up, web.asked) == ([], [])


def test_what_is_asked_for() -> None:
    web = Web({"/a%20b.png?size=2": whole(b"one"), "/": whole(b"two")}, {HERE: [HERE]})
    found = fetched(
        web, "http://here.example/a%20b.png?size=2#part", "https://HERE.example", f"http://{HERE}:443/", url_ports=(80, 443)
    )
    assert found == [b"one", b"two", b"two"]
    assert sorted(web.asked, key=str) == [(HERE, 443, "here.example"), (HERE, 443, None), (HERE, 80, None)]
    lines = next(head for head in web.heads if "size=2" in head).splitlines()
    assert lines[0] == "GET /a%20b.png?size=2 HTTP/1.1"
    assert {line.split(":")[0].lower() for line in lines[1:-1]} == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
    }
    assert web_address(f"http://{HERE}:443/", [443]).host_header == f"{HERE}:443"
    assert web_address("https://[2A00::1]/", [443]).host_header == "[2a00::1]"
    refused(web, "http://here.example/", "wrong-address", url_ports=(443,))


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_asked() -> None:
    web = Web({"/": whole(b"picture")}, {"rebinding.example": [HERE, "127.0.0.1"]})
    assert fetched(web, "http://rebinding.example/") == [b"picture"]
    assert web.looked_up == ["rebinding.example"]
    assert web.asked == [(HERE, 80, None)]
    refused(web, "http://rebinding.example/", "address-out-of-reach")
    assert len(web.asked) == 1


def test_of_several_addresses_only_public_ones_are_asked_and_one_that_answers_is_enough() -> None:
    web = Web({"/": whole(b"picture")}, {"many.example": ["127.0.0.1", "::1", THERE, THERE, HERE], "far.example": [THERE]})
    assert fetched(web, "http://many.example/") == [b"picture"]
    assert [one[0] for one in web.asked] == [THERE, HERE]
    refused(web, "http://far.example/", "address-out-of-reach")


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("http://inside.example/a.png", "address-out-of-reach"),
        ("//inside.example/a.png", "address-out-of-reach"),
        ("http://169.254.169.254/latest", "address-out-of-reach"),
        ("http://here.example:22/", "wrong-address"),
        ("http://user:word@here.example/", "wrong-address"),
        ("file:///etc/passwd", "wrong-address"),
        ("http://[/", "wrong-address"),
        ("http://nothing.example/", "address-out-of-reach"),
    ],
)
def test_a_redirect_is_checked_as_an_address_is(target: str, kind: str) -> None:
    web = Web({"/": to(target)}, {"inside.example": ["10.0.0.7"], "169.254.169.254": ["169.254.169.254"]})
    refused(web, "http://here.example/", kind)
    assert len(web.asked) == 1


def test_redirects_end() -> None:
    pages = {"/1": to("/2"), "/2": to("2/../3", 307), "/3": to("https://here.example/4", 308), "/4": whole(b"picture")}
    web = Web({**pages, "/0": to("/1", 301), "/round": to("/round")})
    assert fetched(web, "http://here.example/1") == [b"picture"]
    assert web.asked[-1] == (HERE, 443, "here.example")
    assert "more than 3 times" in refused(web, "http://here.example/0", "no-picture-there")
    refused(web, "http://here.example/round", "no-picture-there")


def test_what_is_too_large_is_cut_off() -> None:
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    endless = [head, b"3e8\r\n" + b"a" * 1000 + b"\r\n", 0.0]
    web = Web({"/endless": endless, "/long": whole(b"a" * 5001), "/fits": in_chunks(b"a" * 5000)})
    assert "more than 5,000 bytes" in refused(web, "http://here.example/endless", "too-many-bytes", 413, max_picture_bytes=5000)
    assert web.sent < 50 * 2**20
    refused(web, "http://here.example/long", "too-many-bytes", 413, max_picture_bytes=5000)
    assert fetched(web, "http://here.example/fits", max_picture_bytes=5000) == [b"a" * 5000]
    refused(
        Web({"/": [b"HTTP/1.1 200 OK\r\n", b"x: " + b"a" * 1000 + b"\r\n", 0.0]}), "http://here.example/", "address-out-of-reach"
    )


def test_what_is_too_slow_is_left() -> None:
    drop_by_drop = [OK + b"Content-Length: 100000\r\n\r\n", b"a", 0.02]
    web = Web({"/": drop_by_drop, "/silent": [b"", 0.02], "/on": [b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02]})
    for page in ("/", "/silent", "/on"):
        detail = refused(web, f"http://here.example{page}", "slow-address", url_time_limit=0.15)
        assert "within 0.15 s" in detail
    held = threading.Event()
    web.resolve = lambda host, port: [HERE] if held.wait(20) else []  # type: ignore[method-assign]
    try:
        refused(web, "http://here.example/", "slow-address", url_time_limit=0.15)
    finally:
        held.set()


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc", "no-picture-there"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "no-picture-there"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc", "no-picture-there"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "no-picture-there"),
        (OK + b"Content-Length: 30\r\n\r\nabc", "address-out-of-reach"),
        (OK + b"Content-Length: x\r\n\r\nabc", "address-out-of-reach"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "address-out-of-reach"),
        (b"SSH-2.0-secret\r\n\r\n", "address-out-of-reach"),
        (b"", "address-out-of-reach"),
    ],
)
def test_answers_that_are_no_picture(page: bytes, kind: str) -> None:
    refused(Web({"/": page}), "http://here.example/", kind)


def test_all_bytes_of_a_request_count() -> None:
    counted: list[int] = []
    web = Web({"/": in_chunks(b"a" * 3000)})
    assert fetched(web, "http://here.example/", "http://here.example/", count=counted.append) == [b"a" * 3000] * 2
    assert sum(counted) == 6000


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetched(Web({"/": whole(b"picture")}), "http://here.example/") == [b"picture"]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of here.example, with its key, that nobody else trusts."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the program openssl is not here, to make a certificate with")
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    what = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here.example"
    more = "-addext subjectAltName=DNS:here.example -addext keyUsage=critical,digitalSignature,keyCertSign"
    command = [program, *what.split(), *more.split(), "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + key.read_bytes())
    return made


def test_by_tls_there_must_be_a_good_certificate_of_the_name_that_was_given(certificate: Path) -> None:
    web = Web({"/": whole(b"picture")}, {"other.example": [HERE]}, certificate)
    trusted = ssl.create_default_context(cafile=str(certificate))

    def leads_here(trusted: ssl.SSLContext | None) -> Connect:
        return lambda ip_address, port, host: connect("127.0.0.1", web.port, host, trusted=trusted)

    web.connect = leads_here(trusted)  # type: ignore[method-assign, assignment]
    assert fetched(web, "https://here.example/") == [b"picture"]
    refused(web, "https://other.example/", "address-out-of-reach")
    web.connect = leads_here(None)  # type: ignore[method-assign, assignment]
    refused(web, "https://here.example/", "address-out-of-reach")


@pytest.fixture
def engine(trained: object) -> HeldEngine:
    return HeldEngine(load_backbone(device="cpu").config.preprocess)


def test_pictures_of_addresses_are_answered_as_those_that_are_sent(service: Services, pictures: list[bytes]) -> None:
    pages: dict[str, Page] = {"/0.png": whole(pictures[0]), "/1.png": to("/2.png"), "/2.png": in_chunks(pictures[1])}
    web = Web(pages)
    first, second = "http://here.example/0.png", "https://here.example/1.png"

    async def ask() -> None:
        async with web.open(), client_of(service(fetcher=web.fetcher, allow_urls=True)) as client:
            expected = (await client.post("/v1/predict", files=[("picture", one) for one in pictures[:3]])).json()["predictions"]
            sent = base64.b64encode(pictures[2]).decode()
            asked = {"url": first}, {"pictures": [sent], "urls": [second, first]}
            for body, names, places in zip(asked, ([first], [None, second, first]), ([0], [2, 1, 0]), strict=True):
                answer = await client.post("/v1/predict", json=body)
                assert answer.status_code == 200, answer.text
                said = answer.json()["predictions"]
                assert [one["name"] for one in said] == names
                for one, other in zip(said, [expected[place] for place in places], strict=True):
                    assert one["class"] == other["class"]
                    assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
            answer = await client.post("/v1/embed", json={"picture": sent, "url": first})
            assert len(answer.json()["embeddings"]) == 2
            is_problem(await client.post("/v1/predict", json={"picture": first}), 422, "no-address")

    asyncio.run(ask())


def test_the_limits_of_what_is_sent_are_those_of_what_is_fetched(
    service: Services, engine: HeldEngine, pictures: list[bytes]
) -> None:
    pages: dict[str, Page] = {"/text": whole(b"no picture"), "/big": whole(b"a" * 30_000), "/0.png": whole(pictures[0])}
    web = Web(pages, {"inside.example": ["192.168.1.1"]})

    async def ask() -> None:
        made = service(engine, web.fetcher, allow_urls=True, max_request_bytes=50_000, max_picture_bytes=40_000)
        async with web.open(), client_of(made) as client:

            async def asked(*urls: str) -> httpx2.Response:
                return await client.post("/v1/predict", json={"urls": [f"http://{url}" for url in urls]})

            detail = is_problem(await asked("here.example/0.png", "here.example/text"), 422, "unusable-picture")
            assert detail.startswith("picture 2 (http://here.example/text)")
            is_problem(await asked("here.example/big", "here.example/big"), 413, "too-many-bytes")
            detail = is_problem(await asked("here.example/0.png", "inside.example/"), 422, "address-out-of-reach")
            assert detail.startswith("picture 2: nothing can be fetched from there")
            assert not engine.sizes
            assert made.bodies.in_hand == 0
            assert (await asked("here.example/0.png")).status_code == 200
            assert made.bodies.in_hand == 0

    asyncio.run(ask())
