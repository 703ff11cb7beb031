"""A small hub of one's own on this machine: it speaks the hub's language over HTTP for repositories, files, commits and branches."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

TOKEN = "hf_of_the_owner"
READ_TOKEN = "hf_that_may_only_read"


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """Files by commit, and the commit of each branch."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def put(self, files: dict[str, bytes], branch: str = "main") -> str:
        commit = commit_of(files)
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass
class Hub:
    """What lies on the hub, and what was asked of it."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""
    cache: Path = Path()

    def fetched(self) -> set[str]:
        return {line.rpartition("/")[2] for line in self.asked if "/resolve/" in line}


class _Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            content, headers = self._content(unquote(self.path.partition("?")[0]), body)
            self._send(200, content, headers)
        except _Problem as problem:
            headers = {"X-Error-Code": problem.code, "X-Error-Message": str(problem)}
            self._send(problem.status, json.dumps({"error": str(problem), **problem.more}).encode(), headers)

    def _content(self, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].removeprefix("---\n").partition("\n---")[0]
            assert isinstance(yaml.safe_load(head), dict)
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, what, rest = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "revision", "/".join(parts[5:]) or "main"
            return self._api(self._repository(name), name, what, rest, body)
        name, what, revision, file = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        assert what == "resolve"
        repository = self._repository(name)
        commit = self._commit(repository, revision)
        if file not in repository.commits[commit]:
            raise _Problem(404, "EntryNotFound", "Entry not found")
        content = repository.commits[commit][file]
        tag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}

    def _create(self, asked: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        self._check_writer()
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            raise _Problem(409, "", "You already created this model repo", url=f"{self.hub.address}/{name}")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        made = self.hub.repositories[name] = Repository(private=private)
        made.put({".gitattributes": b"*.safetensors filter=lfs\n"})
        return _json({"url": f"{self.hub.address}/{name}"})

    def _api(self, repository: Repository, name: str, what: str, rest: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        if what == "revision":
            commit = self._commit(repository, rest)
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            return _json({"id": name, "sha": commit, "siblings": siblings, "private": repository.private})
        if what == "tree":
            files = repository.commits[self._commit(repository, rest)]
            return _json([{"type": "file", "path": file, "size": len(data), "oid": "0" * 40} for file, data in files.items()])
        self._check_writer()
        if what == "branch":
            if rest in repository.branches:
                raise _Problem(409, "", "Reference already exists")
            repository.branches[rest] = repository.branches["main"]
            return _json({})
        if what == "preupload":
            names = [one["path"] for one in json.loads(body)["files"]]
            return _json({"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in names]})
        assert what == "commit"
        files = dict(repository.files(rest))
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = repository.put(files, rest)
        return _json({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit, "pullRequestUrl": None})

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self._token() is None):
            raise _Problem(401 if self._token() is None else 404, "RepoNotFound", "Repository not found")
        if found.gated:
            raise _Problem(403, "GatedRepo", "Access to this model is restricted")
        return found

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise _Problem(404, "RevisionNotFound", "Invalid rev id")
        return commit

    def _token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def _check_writer(self) -> None:
        if self._token() != TOKEN:
            raise _Problem(403, "", "Forbidden: you don't have the rights to write")

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _json(value: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


@contextmanager
def hub_at(address: str, cache: Path, token: str | None = None, offline: bool = False) -> Iterator[None]:
    """The library in this process asks this address instead of the real hub, and has its cache in a folder."""
    import huggingface_hub
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", offline)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token is None:
            patch.delenv("HF_TOKEN", raising=False)
        else:
            patch.setenv("HF_TOKEN", token)
        huggingface_hub.close_session()  # it may have been made offline
        try:
            yield
        finally:
            huggingface_hub.close_session()


@contextmanager
def served_hub(cache: Path, token: str | None = TOKEN) -> Iterator[Hub]:
    """A hub that the library in this process asks instead of the real one, with an empty cache in a folder."""
    hub = Hub(cache=cache)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with hub_at(hub.address, cache, token):
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
