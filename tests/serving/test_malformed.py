"""A thousand malformed requests over real sockets: each is refused in a bounded time, and the server is as well as before."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.serving.conftest import TOKEN
from tests.serving.malformed import malformed
from tests.serving.malformed_base import Malformed, form, head_of
from tests.serving.process import served

from promptmix.serving.problems import MEDIA_TYPE

NUMBER, SECONDS = 1_000, 10


def heard(port: int, one: Malformed) -> tuple[int, str, bytes] | None:
    """Status, media type and body of the first answer; None where the server hung up without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        try:
            connection.sendall(one.request)
            if not one.is_http:
                connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection, method=one.request.partition(b" ")[0].decode("latin-1"))
            response.begin()
            return response.status, response.headers.get("content-type", ""), response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            return None


def what_is_wrong_with(answer: tuple[int, str, bytes] | None, one: Malformed) -> str:
    """Why an answer is none that a malformed request may have; empty where it may."""
    if answer is None:
        return "hung up" if one.is_http else ""
    status, kind, body = answer
    if not 400 <= status < 500:
        return f"status {status}: {body[:200]!r}"
    if kind != MEDIA_TYPE:
        # What cannot be read as HTTP at all never reaches the pages.
        return "" if not one.is_http and status == 400 else f"an answer of {kind}: {body[:200]!r}"
    said = json.loads(body)
    if said.keys() != {"type", "title", "status", "detail"} or said["status"] != status or "\n" in said["detail"]:
        return f"no problem: {said}"
    return ""


def open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def threads(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/task"))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells which files and threads a process has")
def test_a_thousand_malformed_requests_are_refused(folder: Path, pictures: list[bytes]) -> None:
    options = ("--allow-class-changes", "--time-limit", "5")
    with served(folder, *options) as (process, address), httpx2.Client(base_url=address) as client:
        port = int(address.rstrip("/").rpartition(":")[2])

        def answered() -> object:
            said = client.post("v1/predict?top=4", files={"picture": pictures[0]}).json()
            return said["version"], said["predictions"]

        def refuse(every: list[Malformed]) -> list[str]:
            with ThreadPoolExecutor(8) as senders:
                problems = senders.map(lambda one: what_is_wrong_with(heard(port, one), one), every)
                return [f"{one.name}: {problem}" for one, problem in zip(every, problems, strict=True) if problem]

        before = answered()
        every = malformed(NUMBER, TOKEN)
        assert len({one.name for one in every}) > NUMBER // 4
        refused = refuse(every[:300])  # after these all threads there may be have begun
        num_files, num_threads = open_files(process.pid), threads(process.pid)
        refused += refuse(every[300:])
        assert not refused, "\n".join(sorted(set(refused))[:20])
        assert client.get("healthz").text == "ok\n"
        assert answered() == before
        until(lambda: 'promptmix_queue_pictures{model="drawings"} 0.0' in client.get("metrics").text)
        until(lambda: open_files(process.pid) <= num_files)
        assert threads(process.pid) <= num_threads + 2
        process.terminate()
        _, complaints = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in complaints


@pytest.mark.slow
def test_who_does_not_send_what_was_promised_is_told_in_time(folder: Path) -> None:
    """Nothing is said any more and the connection stays open: the server waits for its time limit, and not longer."""
    promised = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n"
    silent = {
        "no body": head_of("POST", "/v1/predict", promised),
        "half a body": head_of("POST", "/v1/predict", promised) + form(b"a")[:20],
        "a body only if asked": head_of("POST", "/v1/predict", promised + "Expect: 100-continue\r\n"),
        "half a chunk": head_of("POST", "/v1/predict", "Transfer-Encoding: chunked\r\n") + b"ff\r\nabc",
        "no classes": head_of("POST", "/v1/classes", f"Authorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n"),
    }
    with served(folder, "--allow-class-changes", "--time-limit", "0.5") as (_, address), ThreadPoolExecutor(8) as senders:
        port = int(address.rstrip("/").rpartition(":")[2])
        every = [Malformed(name=name, request=request) for name, request in silent.items()]
        for one, answer in zip(every, senders.map(lambda one: heard(port, one), every), strict=True):
            assert not what_is_wrong_with(answer, one), one.name
            assert answer is not None and answer[0] == 408, (one.name, answer)
