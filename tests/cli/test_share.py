"""promptmix share, and hub names where a model is read; the snippets of a card do what they say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hub_server import Hub, served_hub

from promptmix.model_folder import CARD, MODEL_FILES

Promptmix = Callable[..., Any]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with served_hub(tmp_path / "hub") as served:
        yield served


def test_shared_and_read_by_others(promptmix: Promptmix, hub: Hub, trained: Path, photos: Path) -> None:
    done = promptmix("share", trained, "somebody/my-flowers")
    done.works()
    commit = hub.repositories["somebody/my-flowers"].branches["main"]
    assert f"shared as somebody/my-flowers@{commit}   next: promptmix predict hf://somebody/my-flowers PICTURE ..." in done.out
    for content in hub.repositories["somebody/my-flowers"].files().values():
        assert str(photos.parent).encode() not in content
    here = promptmix("predict", trained, photos / "cat", "--json")
    there = promptmix("predict", "hf://somebody/my-flowers", photos / "cat", "--json")
    there.works()
    assert there.out == here.out
    asked = len(hub.asked)
    assert promptmix("predict", f"somebody/my-flowers@{commit}", photos / "cat", "--json").out == here.out
    assert json.loads(promptmix("info", "somebody/my-flowers", "--json").out)["method"] == "mocoop"
    assert len(hub.asked) == asked  # from the cache
    assert json.loads(promptmix("info", "hf://somebody/my-flowers", "--json").out)["classes"] == ["anchor", "cat", "skull"]
    assert promptmix("classes", "list", "hf://somebody/my-flowers").out == "anchor\ncat\nskull\n"
    assert json.loads(promptmix("eval", "hf://somebody/my-flowers", photos, "--json").out)["metrics"]["num_pictures"] == 24
    told = json.loads(promptmix("share", trained, "somebody/again", "--private", "--message", "m", "--json").out)
    assert told["model"].startswith("somebody/again@") and hub.repositories["somebody/again"].private


def test_what_cannot_be_shared_or_read_is_one_line(
    promptmix: Promptmix, hub: Hub, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promptmix("share", trained, "flowers").fails(3, "'flowers' is no name on the hub; write owner/name")
    promptmix("share", photos, "somebody/flowers").fails(5, "is no model folder")
    for name in ("../flowers", "./flowers", "somebody/..", "somebody/-flowers"):
        promptmix("share", trained, name, "--out", tmp_path / "to-send").fails(3, "is no name on the hub; write owner/name")
    promptmix("predict", "hf://flowers", photos).fails(3, "is no name on the hub")
    promptmix("predict", "hf://somebody/absent", photos).fails(5, "there is no such repository on the hub, or it is private")
    promptmix("predict", "hf://somebody/absent", photos, "--out", "parts").fails(5, "no such repository")
    promptmix("info", "hf://somebody/absent").fails(5, "no such repository")
    hub.asked.clear()
    promptmix("predict", "somebody/absent", photos).fails(5, "a model on the hub is fetched as hf://somebody/absent")
    promptmix("classes", "remove", "hf://somebody/absent", "cat").fails(5, "is no model folder")
    assert hub.asked == []
    monkeypatch.delenv("HF_TOKEN")
    promptmix("share", trained, "somebody/flowers").fails(5, "nobody is logged in")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    promptmix("share", trained, "somebody/flowers").fails(5, "HF_HUB_OFFLINE forbids")
    promptmix("eval", "hf://somebody/absent", photos).fails(5, "HF_HUB_OFFLINE forbids")


def test_what_would_be_sent_can_be_looked_at(promptmix: Promptmix, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    with (tmp_path / "run" / "model" / CARD).open("a", encoding="utf-8") as file:
        file.write("\nMine.\n")
    out = tmp_path / "to-send"
    promptmix("share", tmp_path / "run", "somebody/my-flowers", "--out", out, "--backbone", "bundled").works()
    assert {path.name for path in out.iterdir()} == {*MODEL_FILES, CARD}
    card = (out / CARD).read_text(encoding="utf-8")
    assert "hf://somebody/my-flowers" in card and card.endswith("\nMine.\n")
    promptmix("share", trained, "somebody/my-flowers", "--out", out).fails(4, "not empty")
    promptmix("info", out).works()


def test_a_backbone_of_another_name_must_be_the_same(promptmix: Promptmix, trained: Path, shared: Path, tmp_path: Path) -> None:
    other = shared / "golden" / "backbone"
    promptmix("share", trained, "a/b", "--out", tmp_path / "out", "--backbone", other).fails(
        5, "the model was trained on backbone 'bundled'"
    )


def test_a_server_changes_no_classes_of_a_model_on_the_hub(
    promptmix: Promptmix, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("fastapi", "prometheus_client", "python_multipart", "uvicorn"):
        pytest.importorskip(library, reason="a server needs the libraries for it")
    monkeypatch.setenv("PROMPTMIX_SERVE_TOKEN", "0123456789")
    promptmix("serve", "hf://somebody/my-flowers", "--allow-class-changes").fails(3, "stays as it is there")
    promptmix("serve", "hf://somebody/my-flowers").fails(5, "no such repository")


def snippets(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("where", ["a folder", "the hub"])
def test_the_snippets_of_a_card_run(
    where: str, promptmix: Promptmix, hub: Hub, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "cat" / sorted(path.name for path in (photos / "cat").iterdir())[0], tmp_path / "picture.jpg")
    shutil.copytree(trained / "model", tmp_path / "model")
    if where == "the hub":
        promptmix("share", "model", "somebody/my-flowers").works()
        card = hub.repositories["somebody/my-flowers"].files()[CARD].decode()
        shutil.rmtree(tmp_path / "model")
    else:
        card = (tmp_path / "model" / CARD).read_text(encoding="utf-8")
    (python,), (command,) = snippets(card, "python"), snippets(card, "sh")
    names: dict[str, Any] = {"__name__": "card"}
    exec(compile(python, "card", "exec"), names)
    assert names["classifier"].predict(["picture.jpg"])[0] in ("anchor", "cat", "skull")
    words = shlex.split(command)
    assert words[0] == "promptmix"
    promptmix(*words[1:]).works()


def test_the_card_of_a_run_follows_its_classes(promptmix: Promptmix, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "model" / CARD
    before = path.read_text(encoding="utf-8")
    assert "Learnt from 6 pictures of 3 classes (2 of each class, drawn at random), seed 1." in before
    assert "Measured on 18 pictures: from the source that it learnt from, drawn at random and held out" in before
    assert "\nlicense: apache-2.0\n" in before and "model-index" in before
    promptmix("classes", "add", tmp_path / "run", "horse").works()
    assert "not measured since: `horse`." in path.read_text(encoding="utf-8")
    promptmix("classes", "rename", tmp_path / "run", "horse", "red <b>fox</b>").works()
    assert "not measured since: `red <b>fox</b>`." in path.read_text(encoding="utf-8")
    promptmix("classes", "remove", tmp_path / "run", "red <b>fox</b>").works()
    assert path.read_text(encoding="utf-8") == before
