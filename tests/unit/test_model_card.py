"""The model card: a head that the hub reads, a block that follows the model, an owner's text that stays, and names that stay names."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy.stats import binomtest

from promptmix.cards.content import model_card, wilson_interval, without_places
from promptmix.cards.owner import renewed_card
from promptmix.data.class_words import ClassWords
from promptmix.model_folder import SavedModel, read_config, remove_model, write_classes, write_model
from promptmix.nn.calibration import AbstainRule, Calibration, LabelSetRule, Reliability
from promptmix.nn.classifier import Classifier
from promptmix.runtime import torch_generator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEASURED = {"num_pictures": 80, "accuracy": 0.75, "accuracy_per_class_mean": 0.7}


def model(class_names: tuple[str, ...] = ("cat", "red_fox", "Ünïcorn 狐"), **training: Any) -> SavedModel:
    features = torch.randn(1, len(class_names), 4, generator=torch_generator(0, "model card"))
    known = {
        "data": "48 pictures of /home/alice/photos",
        "measured_on": "80 pictures of /home/alice/photos that were not trained on",
        "trained_how": "16 of each class, drawn at random",
        "measured_how": "from the source that it learnt from, drawn at random and held out",
        "num_training_pictures": 48,
        "shots": 16,
        "seed": 3,
        "backbone_licence": "mit",
        "metrics": MEASURED,
        "zero_shot": {**MEASURED, "accuracy": 0.5},
        "notes": ["2 pictures of /home/alice/photos are not in the split"],
    }
    return SavedModel(
        method="mocoop",
        options={"groups": [["a {}.", "one {}."], ["many {}."]]},
        class_names=class_names,
        trained_class_names=class_names,
        more_class_names=(),
        backbone_name=f"openai/clip-vit-base-patch16@{COMMIT}",
        backbone_fingerprint="0123456789abcdef",
        expert_names=("a {}.",),
        classifier=Classifier(class_features=features, scale=1.0),
        learnt={"contexts": torch.ones(3)},
        training={**known, **training},
    )


def calibration() -> Calibration:
    return Calibration(
        temperature=1.5,
        criterion="accuracy",
        fitted_on="48 pictures of /home/alice/photos",
        num_pictures=48,
        num_rule_pictures=48,
        cross_fitted=True,
        held_apart=False,
        before=Reliability(expected_calibration_error=0.2, negative_log_likelihood=1.0),
        after=Reliability(expected_calibration_error=0.05, negative_log_likelihood=0.9),
        abstain=AbstainRule(
            target="precision", wanted=0.95, confidence=0.9, minimum_probability=0.625, coverage=0.8, precision=0.97
        ),
        label_sets=LabelSetRule(coverage=0.9, minimum_probability=0.1, mean_size=1.5),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", model())
    return tmp_path / "model"


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def head(folder: Path) -> dict[str, Any]:
    fields = yaml.safe_load(card(folder).removeprefix("---\n").partition("\n---\n")[0])
    assert isinstance(fields, dict)
    return fields


def test_the_hub_reads_its_head(folder: Path) -> None:
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("promptmix", "image-classification", "mit")
    assert data.base_model == "openai/clip-vit-base-patch16"
    assert data.model_name == "promptmix mocoop"
    assert data.eval_results is not None
    values = {(one.metric_type, one.metric_name): one.metric_value for one in data.eval_results}
    assert values == {("accuracy", "top-1 accuracy"): 0.75, ("accuracy", "mean accuracy of the classes"): 0.7}
    assert "held out" in data.eval_results[0].dataset_name


@pytest.mark.parametrize(
    ("change", "training", "absent"),
    [
        ({"backbone_name": "/home/alice/openai/clip"}, {}, "base_model"),
        ({"backbone_name": "openai/clip"}, {}, "base_model"),  # a folder may be called so
        ({"backbone_name": "bundled"}, {}, "base_model"),
        ({}, {"backbone_licence": None}, "license"),
        ({}, {"backbone_licence": "other, own-terms"}, "license"),
        ({}, {"measured_how": "the training pictures themselves"}, "model-index"),
        ({}, {"metrics": {}}, "model-index"),
        ({"class_names": ("cat", "dog", "owl")}, {}, "model-index"),
    ],
)
def test_what_is_not_known_is_left_out(change: dict[str, Any], training: dict[str, Any], absent: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model", dataclasses.replace(model(**training), **change))
    assert absent not in head(tmp_path / "model")
    assert "alice" not in card(tmp_path / "model")


def test_it_tells_what_is_known(folder: Path) -> None:
    text = card(folder)
    for words in (
        "`cat`, `red_fox`, `Ünïcorn 狐`",
        "`openai/clip-vit-base-patch16@",
        "licence of the backbone: `mit`",
        "2 soft prompts",
        "`a {}.`, `one {}.`",
        "48 pictures of 3 classes (16 of each class, drawn at random), seed 3",
        "Measured on 80 pictures: from the source that it learnt from, drawn at random and held out",
        "| 75.0 [64.5, 83.2] | 50.0 [39.3, 60.7] |",
        "names one of its classes whatever is on the picture",
        "- Note: 2 pictures of (local files) are not in the split.",
    ):
        assert words in text, words
    assert "alice" not in text
    assert "pictograms" not in text


def test_a_calibration_and_the_bundled_backbone_are_told(tmp_path: Path) -> None:
    write_model(tmp_path / "model", dataclasses.replace(model(), calibration=calibration(), backbone_name="bundled"))
    text = card(tmp_path / "model")
    assert "calibrated on 48 left-out training pictures: temperature 1.5" in text
    assert "Below a probability of 0.625 it says `none of these`, for a precision of 95 % with 90 % confidence." in text
    assert "Fitted on 48 pictures; what is promised here holds nearly, and not by proof." in text
    assert "with other classes" not in text
    proved = calibration().model_copy(update={"num_rule_pictures": 30, "held_apart": True})
    assert "Fitted on 30 pictures; what is promised here holds for new pictures" in model_card(
        read_config(tmp_path / "model"), model().class_names, proved
    )
    assert "pictograms and emoji, not photographs" in text
    assert "whatever is on the picture" not in text and "alice" not in text


def test_of_many_classes_some_are_told(tmp_path: Path) -> None:
    write_model(tmp_path / "model", model(tuple(f"class {number}" for number in range(1000))))
    assert "`class 49` and 950 more." in card(tmp_path / "model")
    assert len(card(tmp_path / "model")) < 8000


NASTY = (
    "<script>alert(1)</script>",
    "[here](https://evil.example)",
    "![x](https://evil.example/a.png)",
    "`quoted` ``twice``",
    "a | b",
    "---",
    "# head",
    "key: [1, {",
    "<!-- promptmix: end -->",
    "</code></p><b>",
    "$x$ & *bold* _it_",
    "`",
)


def test_names_from_outside_stay_names(tmp_path: Path) -> None:
    write_model(tmp_path / "model", model(NASTY, notes=[f"of {NASTY[0]} and {NASTY[1]} *and* so on"]))
    text = card(tmp_path / "model")
    assert head(tmp_path / "model")["library_name"] == "promptmix"
    body = text.partition("\n---\n")[2]
    tokens = [one for token in MarkdownIt("commonmark").enable("table").parse(body) for one in [token, *(token.children or [])]]
    assert {one.type for one in tokens} & {"link_open", "image", "html_inline"} == set()
    assert [one.content.strip() for one in tokens if one.type == "html_block"] == re.findall("^<!-- .*-->$", body, re.MULTILINE)
    written = [one.content for one in tokens if one.type == "code_inline"]
    assert set(NASTY) <= set(written)
    write_classes(tmp_path / "model", model(("cat", "dog")))  # and no name ends the block
    assert NASTY[0] not in card(tmp_path / "model").partition("## Limits")[0].partition("## Data")[0]
    assert card(tmp_path / "model").count("<!-- promptmix: end -->") == 1


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12), min_size=2, max_size=4))
def test_any_name_leaves_the_card_whole(names: list[str]) -> None:
    config = {
        "method": "coop",
        "promptmix_version": "1",
        "options": {"words": names[0]},
        "backbone": {"name": names[1], "fingerprint": names[0]},
        "trained_class_names": names,
        "training": {"notes": names, "backbone_licence": names[0]},
    }
    text = model_card(config, names)
    assert renewed_card(text, text) == text
    assert renewed_card(f"{text}\nmine\n", text) == f"{text}\nmine\n"
    assert isinstance(yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0]), dict)


def test_the_card_follows_classes_and_calibration(folder: Path) -> None:
    write_classes(folder, dataclasses.replace(model(("cat", "dog")), trained_class_names=model().class_names))
    text = card(folder)
    assert "# mocoop: 2 classes" in text and "red_fox" not in text
    assert "Added, renamed or described after its training, and not measured since: `dog`." in text
    assert "measured with its training classes; the classes have changed since" in text
    assert "model-index" not in head(folder)
    write_classes(folder, dataclasses.replace(model(), calibration=calibration()))
    assert "temperature 1.5" in card(folder) and "model-index" in head(folder)
    write_classes(folder, model())
    fresh = model_card(read_config(folder), model().class_names)
    assert card(folder) == fresh  # by whatever way it went


def test_a_class_with_other_words_is_another_class_than_was_measured(folder: Path) -> None:
    words = {"cat": ClassWords(name="cat", synonyms=("house cat",))}
    write_classes(folder, dataclasses.replace(model(), class_words=words))
    text = card(folder)
    assert "model-index" not in head(folder)
    assert "the classes have changed since" in text
    assert "Added, renamed or described after its training, and not measured since: `cat`." in text


def test_a_calibration_that_was_fitted_for_other_classes_says_so(folder: Path) -> None:
    kept = calibration().with_classes([0, None, 2])
    write_classes(folder, dataclasses.replace(model(), calibration=kept))
    assert "That was so with other classes; the classes have changed since." in card(folder)
    assert "Fitted on" not in card(folder)  # no rule is left


def test_what_the_owner_wrote_stays(folder: Path) -> None:
    result = {"name": "another bench", "results": []}
    text = (
        card(folder)
        .replace("license: mit", "license: cc-by-4.0\nlanguage: de")
        .replace("model-index:\n", f"model-index:\n- {json.dumps(result)}\n")
    )
    above, below = "\n# My flowers\n\nAsk me.\n\n", "\n## Thanks\n\nto all\n"
    text = text.replace("\n<!-- promptmix: what", f"{above}<!-- promptmix: what", 1) + below
    (folder / "README.md").write_text(text, encoding="utf-8")
    write_classes(folder, model(("cat", "dog")))
    assert above in card(folder) and card(folder).endswith(below)
    assert "`dog`" in card(folder) and "red_fox" not in card(folder)
    assert head(folder)["license"] == "cc-by-4.0" and head(folder)["language"] == "de"
    assert head(folder)["model-index"] == [result]
    other = dataclasses.replace(model(("owl", "emu")), backbone_name="bundled")
    write_model(folder, other, overwrite=True)
    assert above in card(folder) and card(folder).endswith(below)
    assert head(folder)["license"] == "cc-by-4.0" and head(folder)["language"] == "de"
    assert "base_model" not in head(folder) and "`emu`" in card(folder)  # what nobody had touched follows the model
    assert [one["name"] for one in head(folder)["model-index"]] == ["promptmix mocoop", "another bench"]


def test_a_card_without_marks_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for whole in (b"# Mine alone\n", b"\xff\xfe is no text"):
        (folder / "README.md").write_bytes(whole)
        with caplog.at_level(logging.WARNING):
            write_classes(folder, model(("cat", "dog")))
            write_model(folder, model(("owl", "emu")), overwrite=True)
        assert (folder / "README.md").read_bytes() == whole
        assert "has no marks of promptmix" in caplog.text
        caplog.clear()


def test_a_head_that_cannot_be_read_is_left_alone(folder: Path) -> None:
    body = card(folder).partition("\n---\n")[2]
    (folder / "README.md").write_text(f"---\ntags: [a\n---\n{body}", encoding="utf-8")
    write_classes(folder, model(("cat", "dog")))
    assert card(folder).startswith("---\ntags: [a\n---\n") and "`dog`" in card(folder)


def test_a_removed_model_leaves_a_card_that_somebody_wrote_into(folder: Path) -> None:
    (folder / "README.md").write_text(card(folder) + "\nmine\n", encoding="utf-8")
    remove_model(folder)
    assert [path.name for path in folder.iterdir()] == ["README.old.md"]
    write_model(folder, model(), overwrite=True)
    (folder / "README.md").write_text("all mine", encoding="utf-8")
    remove_model(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.old.md", "README.old2.md"]
    assert (folder / "README.old2.md").read_text() == "all mine"


def test_a_card_that_nobody_wrote_into_goes_with_the_model(folder: Path) -> None:
    write_classes(folder, dataclasses.replace(model(("cat", "dog")), calibration=calibration()))
    remove_model(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "training",
    [
        {"metrics": 3},
        {"notes": "a text"},
        {"metrics": {"num_pictures": 0, "accuracy": 2}},
        {"converted_from": []},
        {"seed": [1]},
        {},
    ],
)
@pytest.mark.parametrize("options", [{"groups": 3}, {"groups": [3]}, {"templates": {"a": 1}}, {"words": 5}, {}])
def test_a_model_that_tells_nonsense_of_itself_has_a_card(training: dict[str, Any], options: dict[str, Any]) -> None:
    backbone = {"name": "b", "fingerprint": "f"}
    config = {"method": "coop", "promptmix_version": "1", "options": options, "backbone": backbone}
    text = model_card({**config, "trained_class_names": ["a", "b"], "training": training}, ["a", "b"])
    assert "What it learnt from is not known here." in text and "Not measured." in text


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 50), (3, 7), (60, 80), (9999, 10000)])
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("3 of /home/a/b c", "3 of (local files) c"),
        (r"in C:\Users\alice", "in (local files)"),
        ("in ~alice now", "in (local files) now"),
        ("of hf:owner/name@main", "of hf:owner/name@main"),
        ("left out 2 pictures that cannot be read: a b.png, c.png", "left out 2 pictures that cannot be read"),
        ("the text loss used the names", "the text loss used the names"),
    ],
)
def test_places_are_taken_out(text: str, left: str) -> None:
    assert without_places(text) == left
