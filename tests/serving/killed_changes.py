"""Changes the classes of a model folder in processes that are killed, at every step of writing and at random moments.

Run as a process of its own: it loads everything once and then forks, so that a killed process costs next to nothing. It ends with an
error as soon as a folder is anything but the model before or after the change, and else prints what it saw as JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.serving.conftest import TOKEN

from promptmix.backbones.registry import load_backbone
from promptmix.cli import classes_verbs as classes
from promptmix.cli.main import run
from promptmix.model_folder import read_model
from promptmix.serving.server import run_server
from promptmix.serving.service import Service
from promptmix.serving.settings import Settings
from promptmix.serving.torch_engine import TorchLoader

WRITING = ("write_bytes", "write_text")
SEAMS = ((tempfile, "mkstemp"), *((Path, name) for name in WRITING), (os, "fsync"), (Path, "chmod"), (Path, "replace"))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object]) -> int:
    """The process that does some work, and nothing after it."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return process


def was_killed(process: int) -> bool:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def call(*arguments: str) -> None:
    with (
        mock.patch("sys.argv", ["promptmix", *arguments]),
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
    ):
        run()


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Kill this process before or after the step-th of the calls that write; the half of a file counts as a step too."""
    passed = 0

    def pass_a_step() -> None:
        nonlocal passed
        if passed == step:
            die()
        passed += 1

    def watched(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def calling(*arguments: Any, **options: Any) -> Any:
            pass_a_step()
            result = original(*arguments, **options)
            if name in WRITING and passed == step:
                path = Path(arguments[0])
                os.truncate(path, path.stat().st_size // 2)
            pass_a_step()
            return result

        return calling

    with contextlib.ExitStack() as patches:
        for owner, name in SEAMS:
            patches.enter_context(mock.patch.object(owner, name, watched(getattr(owner, name), name)))
        yield


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def make_old(folder: Path) -> None:
    for path in leftovers(folder):
        os.utime(path, (time.time() - 7_200,) * 2)


def names_in(folder: Path) -> list[str]:
    """The classes of the model; raises unless all of its files fit together."""
    return list(read_model(folder).class_names)


def at_every_step(whole: Path, folder: Path) -> dict[str, int]:
    """``promptmix classes add`` killed at each step of its writing, and then left to finish."""
    before = names_in(whole)
    seen = {"steps": 0, "old": 0, "new": 0}
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)

        def add_and_die(step: int = seen["steps"]) -> None:
            with killed_at(step):
                call("classes", "add", str(folder), "heart")

        killed = was_killed(forked(add_and_die))
        names = names_in(folder)
        assert names in (before, [*before, "heart"]), names
        assert len(leftovers(folder)) <= 1, leftovers(folder)
        make_old(folder)
        assert not was_killed(forked(lambda: call("classes", "add", str(folder), "star")))
        assert names_in(folder) == [*names, "star"]
        assert not leftovers(folder), "the next change clears away what the killed one left"
        if not killed:
            return seen
        seen["steps"] += 1
        seen["old" if names == before else "new"] += 1


def at_random_moments(folder: Path, rounds: int, chance: random.Random) -> dict[str, int]:
    """``promptmix classes add`` and ``remove`` killed after a random time, again and again in one folder."""
    seen = {"killed": 0, "old": 0, "new": 0}
    for number in range(rounds):
        before = names_in(folder)
        verb, name = ("add", f"thing {number}") if len(before) < 6 or chance.random() < 0.5 else ("remove", before[-1])
        after = [*before, name] if verb == "add" else before[:-1]
        process = forked(lambda verb=verb, name=name: call("classes", verb, str(folder), name))  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.06))
        os.kill(process, signal.SIGKILL)
        seen["killed"] += was_killed(process)
        names = names_in(folder)
        assert names in (before, after), (names, before, after)
        seen["old" if names == before else "new"] += 1
        make_old(folder)
        assert len(leftovers(folder)) <= 1, leftovers(folder)
    return seen


def over_http(folder: Path, rounds: int, chance: random.Random) -> dict[str, int]:
    """A server that is killed while it changes classes, and started anew on the same folder."""
    loader = TorchLoader(backbone=None, device="cpu", precision="auto", with_text=True)
    loader.load(folder)  # its backbone, once for all that are forked
    seen, numbers = {"changes": 0, "old": 0, "new": 0}, itertools.count()
    for _ in range(rounds):
        reading, writing = os.pipe()

        def serve(writing: int = writing) -> None:
            service = Service({"drawings": folder}, lambda path: loader, Settings(allow_class_changes=True, token=TOKEN))
            run_server(service, "127.0.0.1", 0, lambda address: os.write(writing, f"{address}\n".encode()) and None)

        process = forked(serve)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as said:
            port = int(said.readline().strip().rstrip("/").rpartition(":")[2])
        timer = threading.Timer(chance.uniform(0.01, 0.2), os.kill, (process, signal.SIGKILL))
        before = after = names_in(folder)
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
        ):
            while True:
                after = [*before, f"new {next(numbers)}"] if len(before) < 8 else before[:-3]
                before = changed(connection, before, after)
                seen["changes"] += 1
                if timer.ident is None:  # one is answered at least, however slow the machine is
                    timer.start()
        timer.join()
        assert was_killed(process)
        names = names_in(folder)
        assert names in (before, after), (names, before, after)  # what was answered is on disk
        seen["old" if names == before else "new"] += 1
        make_old(folder)
        assert len(leftovers(folder)) <= 1, leftovers(folder)
    return seen


def changed(connection: http.client.HTTPConnection, before: list[str], after: list[str]) -> list[str]:
    """What the server answers to a change of classes."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    if len(after) > len(before):
        connection.request("POST", "/v1/classes", json.dumps({"classes": after[len(before) :]}), headers)
    else:
        gone = "&".join(f"name={name.replace(' ', '%20')}" for name in before[len(after) :])
        connection.request("DELETE", f"/v1/classes?{gone}", headers=headers)
    answer = connection.getresponse()
    said = json.loads(answer.read())
    assert answer.status == 200, said
    names = [one["name"] for one in said["classes"]]
    assert names == after
    return names


def main(whole: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    chance = random.Random(0)
    backbone = load_backbone(device="cpu")
    seen = {}
    with mock.patch.object(classes, "backbone_of", return_value=backbone):
        seen["at every step"] = at_every_step(whole, folder)
        seen["at random moments"] = at_random_moments(folder, 10, chance)
    seen["over HTTP"] = over_http(folder, 4, chance)
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
