"""Names on the hub: from its cache without the network, from a server that speaks its language, and what is said when neither helps."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.backbone_files import write_open_clip
from tests.cli.conftest import Done, Promptmix, promptmix
from tests.hub_server import hub_at

from promptmix.backbones.registry import bundled_folder
from promptmix.hub_access import is_hub_name

__all__ = ["promptmix"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "model.safetensors", "tokenizer.json")


NOBODY = "http://127.0.0.1:9"  # any attempt to reach a hub there fails


Info = Callable[..., Done]


@pytest.fixture
def info(promptmix: Promptmix) -> Info:
    """``promptmix info NAME``, where the hub's library has the settings that it takes from the environment otherwise."""

    def call(name: str, home: Path, *, endpoint: str = NOBODY, offline: bool = False) -> Done:
        with hub_at(endpoint, home / "hub", offline=offline):
            return promptmix("info", name, "--json")

    return call


def info_with(name: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own: the library reads its settings when it is imported."""
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = [sys.executable, "-c", "from promptmix.cli.main import run; run()", "info", name, "--json"]
    return subprocess.run(command, env={**kept, **settings}, capture_output=True, text=True, timeout=120, check=False)


def write_cache(home: Path, repository: str, revision: str, files: tuple[str, ...] = FILES) -> None:
    """The bundled backbone as the hub's library lays a repository out in its cache."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).symlink_to(bundled_folder() / name)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(COMMIT)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("openai/clip-vit-base-patch32", True),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K@main", True),
        ("a/b@refs/pr/3", True),
        (f"a/b@{COMMIT}", True),
        ("bundled", False),
        ("a/b/c", False),
        ("a/b@", False),
        ("/a/b", False),
        ("a b/c", False),
        ("../a", True),  # a folder of that name would have been found before
        ("https://huggingface.co/a/b", False),
    ],
)
def test_what_a_name_on_the_hub_is(name: str, is_one: bool) -> None:
    assert is_hub_name(name) is is_one


@pytest.mark.parametrize("asked", ["someone/small-clip", "someone/small-clip@main", f"someone/small-clip@{COMMIT}"])
def test_the_cache_is_used_without_the_network(info: Info, asked: str, tmp_path: Path) -> None:
    write_cache(tmp_path, "someone/small-clip", "main")
    done = info(asked, tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["backbone"] == f"someone/small-clip@{COMMIT}"


@pytest.mark.parametrize(
    ("name", "offline", "words"),
    [
        ("someone/absent", True, "lacks everything of it; HF_HUB_OFFLINE forbids"),
        ("someone/absent", False, "it cannot be downloaded"),
        ("someone/small-clip@other", True, "HF_HUB_OFFLINE forbids"),
        ("nobody", True, "there is no folder 'nobody'"),
    ],
)
def test_what_is_nowhere_is_one_line(info: Info, name: str, offline: bool, words: str, tmp_path: Path) -> None:
    write_cache(tmp_path, "someone/small-clip", "main")
    done = info(name, tmp_path, offline=offline)
    assert done.code == 5
    # The hub's library says on lines of its own that it tries again.
    assert words in done.err.splitlines()[-1]


def test_what_the_environment_says_of_the_hub_counts(hub: str, tmp_path: Path) -> None:
    forbidden = info_with("someone/small-clip", tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub)
    assert forbidden.returncode == 5
    assert "lacks everything of it; HF_HUB_OFFLINE forbids" in forbidden.stderr
    assert Hub.asked == []
    done = info_with("someone/small-clip", tmp_path, HF_ENDPOINT=hub, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backbone"] == f"someone/small-clip@{COMMIT}"
    assert (tmp_path / "hub" / "models--someone--small-clip" / "snapshots" / COMMIT / "config.json").is_file()


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, for one repository."""

    asked: list[str]
    files: dict[str, bytes]

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/someone/small-clip/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            content = json.dumps({"id": "someone/small-clip", "sha": COMMIT, "siblings": siblings}).encode()
            self._send(200, content, {"Content-Type": "application/json"})
        elif path.startswith("/api/models/someone/small-clip/tree/"):
            entries = [{"type": "file", "path": name, "size": len(self.files[name]), "oid": COMMIT} for name in self.files]
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/someone/small-clip/resolve/{COMMIT}/") and path.rpartition("/")[2] in self.files:
            content = self.files[path.rpartition("/")[2]]
            self._send(200, content, {"ETag": f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    Hub.files = {name: (bundled_folder() / name).read_bytes() for name in FILES}
    Hub.files |= {"pytorch_model.bin": b"another copy of the weights", "run.py": b"print('never fetched')"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_cache_lacks_is_downloaded_once_and_nothing_else(info: Info, hub: str, tmp_path: Path) -> None:
    done = info("someone/small-clip", tmp_path, endpoint=hub)
    assert done.code == 0, done.err
    assert json.loads(done.out)["backbone"] == f"someone/small-clip@{COMMIT}"
    fetched = {line.rpartition("/")[2] for line in Hub.asked if "/resolve/" in line}
    assert fetched == set(FILES)
    Hub.asked.clear()
    again = info("someone/small-clip", tmp_path, endpoint=hub)
    assert again.out == done.out
    assert Hub.asked == []


@pytest.mark.parametrize("lost", ["tokenizer.json", "model.safetensors"])
def test_a_cache_that_another_program_filled_in_part_is_completed(info: Info, hub: str, tmp_path: Path, lost: str) -> None:
    write_cache(tmp_path, "someone/small-clip", "main", tuple(name for name in FILES if name != lost))
    offline = info("someone/small-clip", tmp_path, offline=True)
    assert offline.code == 5
    assert f"lacks {'weights' if lost == 'model.safetensors' else lost} of it" in offline.err
    done = info("someone/small-clip", tmp_path, endpoint=hub)
    assert done.code == 0, done.err
    assert {line.rpartition("/")[2] for line in Hub.asked if line.startswith("GET") and "/resolve/" in line} == {lost}


def test_of_two_models_in_a_repository_the_one_that_can_be_read_is_fetched(info: Info, hub: str, tmp_path: Path) -> None:
    # As the image towers of timm lie beside the open_clip model they were taken from.
    write_open_clip(tmp_path / "model")
    names = ("open_clip_config.json", "open_clip_model.safetensors")
    Hub.files = {name: (tmp_path / "model" / name).read_bytes() for name in names}
    Hub.files |= {"config.json": b'{"architecture": "vit_base_patch32_clip_224"}', "model.safetensors": b"the image tower alone"}
    done = info("someone/small-clip", tmp_path / "home", endpoint=hub)
    assert done.code == 0, done.err
    assert not any(line.endswith("/model.safetensors") for line in Hub.asked)


def test_a_slip_in_the_name_of_a_folder_does_not_ask_the_hub(
    info: Info, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    done = info("runs/clip", tmp_path / "home", endpoint=hub)
    assert done.code == 5
    assert "there is no folder 'runs/clip'" in done.err
    assert Hub.asked == []


def test_a_repository_that_is_not_there_or_holds_no_weights_is_one_line(info: Info, hub: str, tmp_path: Path) -> None:
    done = info("someone/else", tmp_path, endpoint=hub)
    assert done.code == 5
    assert "there is no folder 'someone/else'" in done.err
    assert "the hub refuses it" in done.err
    assert len(done.err.splitlines()) == 1
    Hub.files = {"config.json": b"{}"}
    done = info("someone/small-clip", tmp_path, endpoint=hub)
    assert done.code == 5
    assert "is no CLIP or SigLIP that can be read: it has config.json" in done.err
