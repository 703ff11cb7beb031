"""Models on the hub: sent and fetched again they say the same, nothing of this machine goes with them, and what fails is one line."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.hub_server import READ_TOKEN, Hub, Repository, served_hub

from promptmix import CheckpointError, ConfigError, HubError, PromptClassifier
from promptmix.data.pictograms import draw_set
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import CARD, MODEL_FILES, read_model, write_model
from promptmix.model_hub import cached_model, fetch_model, public_model, push_model, stored_model

NAMES = ("anchor", "cat", "skull")
OURS = {*MODEL_FILES, CARD}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures below a folder with a name that is nobody's business."""
    root = tmp_path_factory.mktemp("home-of-alice")
    for number, one in enumerate(draw_set(NAMES, ("photo",), 3, 1)):
        (root / one.class_name).mkdir(exist_ok=True)
        one.image.save(root / one.class_name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def fitted(folder: Path) -> PromptClassifier:
    return PromptClassifier("mocoop", recipe={"epochs": 1, "batch_size": 8}, augmentation={"views": 0}, device="cpu").fit(folder)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with served_hub(tmp_path / "hub") as served:
        yield served


def put_model(hub: Hub, name: str, fitted: PromptClassifier, folder: Path, **more: bytes) -> str:
    """A repository with a model and further files, put there by hand."""
    fitted.save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {key.replace("_dot_", "."): more[key] for key in more}
    repository = hub.repositories[name] = Repository()
    return repository.put(files)


def test_sent_and_fetched_again_it_says_the_same(hub: Hub, fitted: PromptClassifier, folder: Path) -> None:
    pushed = fitted.push_to_hub("somebody/my-pictures", message="the first")
    there = hub.repositories["somebody/my-pictures"].files()
    assert set(there) - {".gitattributes"} == OURS
    assert pushed == f"somebody/my-pictures@{hub.repositories['somebody/my-pictures'].branches['main']}"
    again = PromptClassifier.from_pretrained("somebody/my-pictures", device="cpu")
    assert list(again.classes_) == list(NAMES)
    expected = fitted.predict_proba(folder)
    np.testing.assert_array_equal(again.predict_proba(folder), expected)
    np.testing.assert_array_equal(PromptClassifier.from_pretrained(pushed, device="cpu").predict_proba(folder), expected)
    said = Predictor.from_pretrained("somebody/my-pictures", device="cpu").predict(sorted(folder.glob("*/*.png")))
    assert [one.class_name for one in said.predictions] == list(fitted.predict(folder))


def test_nothing_of_this_machine_goes_along(hub: Hub, fitted: PromptClassifier, folder: Path) -> None:
    model = fitted._fitted().model
    notes = [f"3 pictures of {folder} are not in the split", f"left out 1 pictures that cannot be read: {folder}/cat/a cat.png"]
    model = dataclasses.replace(
        model, backbone_name="/home/alice/clip-base", training={**model.training, "notes": [*notes, "a 1/2 of hf:owner/set"]}
    )
    assert "alice" in str(model.training)
    push_model(public_model(model), "somebody/my-pictures")
    for name, content in hub.repositories["somebody/my-pictures"].files().items():
        for secret in (b"alice", b"a cat", str(folder.parent).encode(), b"/home"):
            assert secret not in content, name
    shared = read_model(fetch_model("somebody/my-pictures"))
    assert shared.backbone_name == "clip-base"
    assert shared.training["notes"][0] == "3 pictures of (local files) are not in the split"
    assert "hf:owner/set" in shared.training["notes"][2]


def test_a_branch_and_a_commit(hub: Hub, fitted: PromptClassifier) -> None:
    first = fitted.push_to_hub("somebody/two")
    fewer = PromptClassifier("zero-shot", device="cpu")._use(fitted._fitted().model, fitted._fitted().backbone)
    fewer.remove_classes(["cat"])
    fewer.push_to_hub("somebody/two", revision="fewer")
    assert len(PromptClassifier.from_pretrained("somebody/two", device="cpu").classes_) == 3
    assert list(PromptClassifier.from_pretrained("somebody/two", revision="fewer", device="cpu").classes_) == ["anchor", "skull"]
    assert list(PromptClassifier.from_pretrained("somebody/two@fewer", device="cpu").classes_) == ["anchor", "skull"]
    hub.asked.clear()
    assert fetch_model(first) == cached_model(first)
    assert hub.asked == []  # a commit that is here means what it meant
    with pytest.raises(ConfigError, match="give one of them"):
        fetch_model("somebody/two@fewer", "main")
    with pytest.raises(HubError, match="no such revision"):
        fetch_model("somebody/two@other")
    fewer.push_to_hub("somebody/two")
    assert len(PromptClassifier.from_pretrained("somebody/two", device="cpu").classes_) == 2  # main has moved


def test_of_a_repository_with_other_files_only_a_model_is_fetched(hub: Hub, fitted: PromptClassifier, tmp_path: Path) -> None:
    evil = {"pytorch_model_dot_bin": b"a pickle", "modeling_dot_py": b"raise SystemExit", "weights_dot_pkl": b"\x80\x04."}
    put_model(hub, "somebody/crowded", fitted, tmp_path / "model", **evil)
    folder = fetch_model("somebody/crowded")
    assert {path.name for path in folder.iterdir()} == OURS
    assert hub.fetched() == OURS
    assert len(read_model(folder).class_names) == 3


@pytest.mark.parametrize(
    "files", [{"config.json": b"{}", "model.safetensors": b"of a language model"}, dict.fromkeys(MODEL_FILES, b"{}")]
)
def test_a_repository_of_something_else_is_refused(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repositories["somebody/else"] = Repository()
    hub.repositories["somebody/else"].put(files)
    with pytest.raises(CheckpointError, match="somebody/else@main on the hub is no model of promptmix"):
        PromptClassifier.from_pretrained("somebody/else")
    assert len(files) == 3 or hub.fetched() == set()


def test_what_is_not_there_or_private_or_gated(hub: Hub, fitted: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="there is no such repository on the hub, or it is private") as caught:
        fetch_model("somebody/absent")
    assert "\n" not in str(caught.value) and "hf auth login" in str(caught.value)
    fitted.push_to_hub("somebody/secret", private=True)
    assert hub.repositories["somebody/secret"].private
    fetch_model("somebody/secret")
    hub.repositories["somebody/gated"] = Repository(gated=True)
    with pytest.raises(HubError, match="ask for access"):
        fetch_model("somebody/gated")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="private"):
        fetch_model("somebody/secret")


def test_writing_needs_a_name_a_login_and_the_right_to(
    hub: Hub, fitted: PromptClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flowers", "a b/c", "some..body/flowers", "-somebody/x", "somebody/flowers@main", "https://huggingface.co/a/b"):
        with pytest.raises(ConfigError) as caught:
            fitted.push_to_hub(name)
        assert repr(name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="name of a branch"):
        fitted.push_to_hub("somebody/flowers", revision="a b")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(HubError, match="this token may not do that"):
        fitted.push_to_hub("somebody/flowers")
    monkeypatch.delenv("HF_TOKEN")
    hub.asked.clear()
    with pytest.raises(HubError, match="nobody is logged in; say `hf auth login`, or set HF_TOKEN"):
        fitted.push_to_hub("somebody/flowers")
    assert hub.asked == [] and hub.repositories == {}


def test_nothing_private_goes_to_a_public_repository(hub: Hub, fitted: PromptClassifier) -> None:
    fitted.push_to_hub("somebody/open")
    before = dict(hub.repositories["somebody/open"].branches)
    with pytest.raises(HubError, match="is public, so nothing was sent"):
        fitted.push_to_hub("somebody/open", private=True)
    assert hub.repositories["somebody/open"].branches == before


def test_offline_only_the_cache_is_used(hub: Hub, fitted: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted.push_to_hub("somebody/cached")
    folder = fetch_model("somebody/cached")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetch_model("somebody/cached") == folder
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids to download it"):
        fetch_model("somebody/other")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids to ask the hub"):
        fitted.push_to_hub("somebody/cached")
    assert hub.asked == []


def test_without_a_network_the_cache_is_used_and_said(
    hub: Hub, fitted: PromptClassifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fitted.push_to_hub("somebody/cached")
    folder = fetch_model("somebody/cached")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        assert fetch_model("somebody/cached") == folder
    assert "what is in the cache is used" in caplog.text
    with pytest.raises(HubError, match="check the network") as caught:
        fetch_model("somebody/other")
    assert "\n" not in str(caught.value)


def test_a_name_on_the_command_line(hub: Hub, fitted: PromptClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fitted.push_to_hub("somebody/flowers")
    hub.asked.clear()
    with pytest.raises(CheckpointError, match="is fetched as hf://somebody/flowers"):
        stored_model(Path("somebody/flowers"))
    assert hub.asked == []  # nobody asked for the network
    folder = stored_model(Path("hf://somebody/flowers"))
    assert stored_model(Path("hf:somebody/flowers@main")) == folder
    hub.asked.clear()
    assert stored_model(Path("somebody/flowers")) == folder  # it is in the cache by now
    assert hub.asked == []
    (tmp_path / "somebody").mkdir()
    assert stored_model(Path("somebody/flowers")) == Path("somebody/flowers")  # a slip in the name of a folder
    assert stored_model(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="is no name on the hub"):
        stored_model(Path("hf://flowers"))
    with pytest.raises(ConfigError, match="is a folder"):
        PromptClassifier.from_pretrained(tmp_path, revision="main")


def test_a_card_on_the_hub_keeps_what_its_owner_wrote(
    hub: Hub, fitted: PromptClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fitted.push_to_hub("somebody/flowers")
    repository = hub.repositories["somebody/flowers"]
    assert b"hf://somebody/flowers" in repository.files()[CARD]
    edited = (
        repository.files()[CARD]
        .replace(b"\n---\n", b"\nlicense: gpl-3.0\n---\n\nWritten by me.\n")
        .replace(b"license: apache-2.0\n", b"")
    )
    repository.put({**repository.files(), CARD: edited.replace(b"3 classes", b"7 classes")})
    fitted.push_to_hub("somebody/flowers")
    now = repository.files()[CARD]
    assert b"Written by me." in now and b"license: gpl-3.0" in now and b"3 classes" in now and b"7 classes" not in now
    # The model's own card, where somebody wrote into it, goes first.
    write_model(tmp_path / "model", fitted._fitted().model)
    with (tmp_path / "model" / CARD).open("a") as file:
        file.write("\nWritten at home.\n")
    push_model(public_model(fitted._fitted().model), "somebody/flowers", own_folder=tmp_path / "model")
    now = repository.files()[CARD]
    assert b"Written at home." in now and b"hf://somebody/flowers" in now and b"by me" not in now
    repository.put({**repository.files(), CARD: b"All mine.\n"})
    with caplog.at_level(logging.WARNING):
        fitted.push_to_hub("somebody/flowers")
    assert repository.files()[CARD] == b"All mine.\n"
    assert "left as it is" in caplog.text
    repository.put({**repository.files(), CARD: b"---\nlicense: mit\n---\n"})  # as the hub's page makes one
    fitted.push_to_hub("somebody/flowers")
    assert b"license: mit" in repository.files()[CARD] and b"library_name: promptmix" in repository.files()[CARD]
