"""A real server: told to stop, it answers what it accepted; told of a change, it reads it."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.cli.conftest import Promptmix
from tests.serving.conftest import TOKEN, HeldEngine, Services
from tests.serving.process import served

from promptmix.cli import serve
from promptmix.cli.serve import TOKEN as TOKEN_VARIABLE
from promptmix.errors import ConfigError
from promptmix.serving.server import run_server


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_stopping_server_answers_what_it_accepted(folder: Path, pictures: list[bytes]) -> None:
    # A batch waits long for more pictures, so that the signal comes in between.
    with served(folder, "--max-wait", "3000", "--max-batch", "100") as (process, address), ThreadPoolExecutor(4) as threads:

        def ask(place: int) -> httpx2.Response:
            return httpx2.post(f"{address}v1/predict", files={"picture": pictures[place]}, timeout=60)

        asked = [threads.submit(ask, place) for place in range(3)]
        until(lambda: 'promptmix_queue_pictures{model="drawings"} 3.0' in httpx2.get(f"{address}metrics").text)
        process.send_signal(signal.SIGTERM)
        for one in asked:
            answer = one.result(timeout=60)
            assert answer.status_code == 200
            assert answer.json()["version"]
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(address)


@pytest.mark.slow
def test_a_body_that_has_not_come_when_the_server_stops_is_told_so(folder: Path) -> None:
    with served(folder, "--stop-limit", "1") as (process, address):
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\nContent-Length: 1000\r\n\r\n--a"
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":")[-1].strip("/"))), timeout=30) as client:
            client.sendall(head)
            httpx2.get(f"{address}healthz")  # by now the head was read too
            process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"urn:promptmix:problem:stopping" in answer
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_a_running_server_sees_changes_of_the_command_line(folder: Path, promptmix: Promptmix, pictures: list[bytes]) -> None:
    with served(folder, "--allow-class-changes") as (process, address):

        def names() -> list[str]:
            return [one["name"] for one in httpx2.get(f"{address}v1/classes").json()["classes"]]

        promptmix("classes", "add", folder, "heart")
        until(lambda: names()[-1] == "heart")  # by itself, within a second or so
        promptmix("classes", "rename", folder, "heart", "star")
        process.send_signal(signal.SIGHUP)
        until(lambda: names()[-1] == "star")
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert httpx2.delete(f"{address}v1/classes?name=star", headers=headers).status_code == 200
        assert "star" not in names()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_an_address_that_is_taken_is_told(service: Services, trained: Path) -> None:
    from promptmix.backbones.registry import load_backbone

    made = service(HeldEngine(load_backbone(device="cpu").config.preprocess))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="in use; choose another --host or --port"):
            run_server(made, "127.0.0.1", taken.getsockname()[1])


def test_what_the_verb_refuses(folder: Path, promptmix: Promptmix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    promptmix("serve", folder, "--allow-class-changes").fails(3, TOKEN_VARIABLE)
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    promptmix("serve", folder, "--allow-class-changes").fails(3, "token")
    for token in (
        "s\u00e9same ouvre-toi",
        "\u5f00\u95e8\u5f00\u95e8\u5f00\u95e8",
        "lines\nand\nlines",
        "          ",
        "hidden\n\n\n",
    ):
        monkeypatch.setenv(TOKEN_VARIABLE, token)
        refused = promptmix("serve", folder, "--allow-class-changes")
        refused.fails(3, "at least 8 signs")
        assert not any(word in refused.err for word in ("ouvre", "hidden", "and\\n")), "a token is told to nobody"
    monkeypatch.setenv(TOKEN_VARIABLE, f"{TOKEN}\n")
    assert serve._token() == TOKEN
    promptmix("serve", folder, "--engine", "torhc").fails(3, "did you mean 'torch'")
    promptmix("serve", folder, "--time-limit", "0").fails(3, "time_limit")
    promptmix("serve", folder / "nothing").fails(5, "no such folder")
    assert promptmix("serve", folder, "--port", "70000").code == 2


def test_without_the_libraries_one_line_says_what_to_install(
    folder: Path, promptmix: Promptmix, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fastapi", None)
    promptmix("serve", folder).fails(3, "pip install 'promptmix[serve]'")


def test_classes_are_renamed_on_the_command_line(folder: Path, promptmix: Promptmix) -> None:
    done = promptmix("classes", "rename", folder, "cat", "house cat", "--synonym", "kitten")
    done.works()
    assert promptmix("classes", "list", folder).out.splitlines()[1] == "house cat"
    promptmix("classes", "rename", folder, "cat", "dog").fails(3, "did you mean")
    done = promptmix("classes", "add", folder, "scissors", "--description", "a tool", "--synonym", "shears")
    done.works()
    assert promptmix("classes", "add", folder, "heart", "star", "--synonym", "x").code == 2
