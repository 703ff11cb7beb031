"""promptmix export, and predict and info of what it writes: the same answers, with nothing loaded that need not be."""

from __future__ import annotations

import copy
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptmix.data.pictograms import draw_set
from promptmix.errors import CheckpointError
from promptmix.estimator import PromptClassifier
from promptmix.inference import export
from promptmix.inference.exported import facts_of, metadata_of
from promptmix.inference.onnx_predictor import OnnxPredictor

pytest.importorskip("onnxruntime", reason="exported models run by onnxruntime")
pytest.importorskip("onnxscript", reason="exporting needs the libraries for ONNX")
onnx = pytest.importorskip("onnx", reason="exporting needs the libraries for ONNX")

Promptmix = Callable[..., Any]
CLASSES = ("anchor", "cat", "skull")


def draw_into(folder: Path, styles: tuple[str, ...], per_style: int, seed: int) -> None:
    for number, one in enumerate(draw_set(CLASSES, styles, per_style, seed)):
        (folder / one.class_name).mkdir(parents=True, exist_ok=True)
        # Some are large enough to be shrunk by the quick kernel.
        image = one.image.resize((300, 260)) if number % 3 == 0 else one.image
        image.save(folder / one.class_name / f"{number:03}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures to learn from in shots/, others to look at in new/."""
    root = tmp_path_factory.mktemp("pictures")
    draw_into(root / "shots", ("stamp", "neon"), 3, 1)
    draw_into(root / "new", ("photo", "sketch"), 3, 2)
    return root


@pytest.fixture(scope="module")
def run(promptmix: Promptmix, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with votes of its training pictures, and with rules for every kind of answer."""
    out = tmp_path_factory.mktemp("run") / "run"
    asked = ("--method", "tip-adapter", "--abstain", "coverage=0.7", "--label-sets", "0.8")
    promptmix("train", pictures / "shots", "--test", pictures / "new", "--out", out, *asked).works()
    return out


@pytest.fixture(scope="module")
def made_once() -> Iterator[None]:
    """The graph of the run takes long to make, and is made once for all files that are written of it."""
    make, graphs = export.onnx_graph, list[Any]()

    def once(*given: Any) -> Any:
        if not graphs:
            graphs.append(make(*given))
        return copy.deepcopy(graphs[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_graph", once)
        yield


@pytest.fixture(scope="module")
def exported(promptmix: Promptmix, run: Path, made_once: None) -> Path:
    out = run.parent / "model.onnx"
    done = promptmix("export", run, "--out", out)
    done.works()
    assert f"{out}: 3 classes, " in done.out
    assert "float32 beside torch, on 32 drawn pictures and 15 of noise: probabilities differ by at most " in done.out
    assert "(allowed: 0.0001)" in done.out
    return out


def said_by(promptmix: Promptmix, model: Path, pictures: Path, *options: str) -> list[dict[str, Any]]:
    done = promptmix("predict", model, pictures / "new", "--json", "--top", "3", *options)
    done.works()
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.parametrize("options", [(), ("--multi-label",)])
def test_python_the_command_line_and_the_file_say_the_same(
    promptmix: Promptmix, run: Path, exported: Path, pictures: Path, options: tuple[str, ...]
) -> None:
    ours = said_by(promptmix, run, pictures, *options)
    theirs = said_by(promptmix, exported, pictures, *options)
    assert len(ours) == len(theirs) == 18
    classifier = PromptClassifier.from_pretrained(run)
    by_python = classifier.predict_proba([one["path"] for one in ours])
    for one, other, row in zip(ours, theirs, by_python, strict=True):
        assert one.keys() == other.keys()
        for key in ("path", "class", "abstained", "label_set"):
            assert one[key] == other[key]
        shares = {ranked["class"]: ranked["probability"] for ranked in other["top"]}
        assert shares == pytest.approx({ranked["class"]: ranked["probability"] for ranked in one["top"]}, abs=1e-4)
        assert [shares[name] for name in CLASSES] == pytest.approx(row.tolist(), abs=1e-4)
        assert one["experts"] == other["experts"]
        said, also_said = ({label["class"]: label["probability"] for label in each.get("labels", [])} for each in (one, other))
        assert said == pytest.approx(also_said, abs=1e-3)


def test_the_views_of_large_pictures_are_the_same_bytes_for_both(
    promptmix: Promptmix, exported: Path, pictures: Path, subprocess_environment: dict[str, str]
) -> None:
    """What a process without torch says is what one with torch says, to the last digits."""
    command = [sys.executable, "-c", "from promptmix.cli.main import run; run()"]
    words = ["predict", str(exported), str(pictures / "new"), "--csv"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=subprocess_environment)
    assert done.returncode == 0, done.stderr
    here = promptmix(*words)
    here.works()
    for one, other in zip(csv.DictReader(io.StringIO(done.stdout)), csv.DictReader(io.StringIO(here.out)), strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-6)


@pytest.mark.parametrize("verb", ["predict", "info"])
def test_neither_torch_nor_a_backbone_is_loaded(
    exported: Path, pictures: Path, verb: str, subprocess_environment: dict[str, str]
) -> None:
    code = (
        "import atexit, json, sys\n"
        "heavy = ['torch', 'onnx', 'transformers', 'sklearn', 'tokenizers', 'safetensors', 'promptmix.backbones.base']\n"
        "atexit.register(lambda: sys.stderr.write(json.dumps([name for name in heavy if name in sys.modules])))\n"
        "from promptmix.cli.main import run\n"
        "run()\n"
    )
    words = [verb, str(exported), *([str(pictures / "new"), "--json"] if verb == "predict" else [])]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=subprocess_environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr) == []
    assert len(done.stdout.splitlines()) >= 10


def test_torch_cannot_be_needed(exported: Path, pictures: Path, subprocess_environment: dict[str, str]) -> None:
    """Where torch is not installed, which a name that cannot be imported stands for."""
    code = "import sys\nsys.modules['torch'] = None\nfrom promptmix.cli.main import run\nrun()\n"
    words = ["predict", str(exported), str(pictures / "new"), "--csv"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=subprocess_environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 19


def test_info_shows_what_travels_in_the_file(promptmix: Promptmix, exported: Path, run: Path) -> None:
    done = promptmix("info", exported, "--json")
    done.works()
    facts = json.loads(done.out)
    assert facts["classes"] == list(CLASSES)
    assert facts["backbone name"] == "bundled"
    assert facts["preprocess"]["crop"] == 64
    of_run = json.loads(promptmix("info", run, "--json").out)["calibration"]
    assert facts["calibration"] == of_run | {"fitted_on": f"{of_run['num_pictures']} pictures"}
    assert str(run.parent.parent) not in done.out, "no path of this machine goes along"
    lines = promptmix("info", exported).out.splitlines()
    assert lines[0] == 'classes: ["anchor", "cat", "skull"]'


@pytest.mark.usefixtures("made_once")
def test_small_files_are_checked_on_ones_own_pictures(promptmix: Promptmix, run: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    done = promptmix("export", run, "--out", out, "--int8", "--check", pictures / "new", "--json")
    done.works()
    said = json.loads(done.out)
    assert said["files"] == [str(out)]
    assert said["size"] == out.stat().st_size
    assert said["num_pictures"] == 18
    assert said["agreement"]["max_difference"] <= said["tolerance"] == 1e-4
    assert said["quantized"]["same_class"] >= 0.8
    assert said["quantized"]["mean_difference"] < 0.05
    assert OnnxPredictor(out).facts.quantized
    promptmix("export", run, "--out", out).fails(4, "small.onnx is there already; choose another file, or pass --overwrite")


@pytest.mark.usefixtures("made_once")
def test_a_difference_is_refused_with_an_exit_code(
    promptmix: Promptmix, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export._by_torch
    monkeypatch.setattr(export, "_by_torch", lambda *given: real(*given) + np.float64(2e-4))
    done = promptmix("export", run, "--out", tmp_path / "model.onnx")
    done.fails(CheckpointError.exit_code, "differ from torch's by up to 0.0002", "nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_class_names_of_a_foreign_file_steer_no_terminal(
    promptmix: Promptmix, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    graph = onnx.load(exported)
    facts = facts_of(exported, {one.key: one.value for one in graph.metadata_props})
    names = tuple(f"\x1b[2J{name}\n" for name in facts.class_names)
    onnx.helper.set_model_props(graph, metadata_of(facts.model_copy(update={"class_names": names})))
    onnx.save_model(graph, tmp_path / "foreign.onnx")
    picture = next(path for path in sorted(pictures.rglob("*")) if path.is_file())
    done = promptmix("predict", tmp_path / "foreign.onnx", picture)
    done.works()
    assert "\\x1b[2J" in done.out and "\x1b" not in done.out and done.out.count("\n") == 1


def test_what_does_not_go_together_is_refused(
    promptmix: Promptmix, run: Path, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    new = pictures / "new"
    promptmix("export", run, "--out", tmp_path / "model").fails(3, "does not end in .onnx; write --out model.onnx")
    promptmix("predict", tmp_path / "missing.onnx", new).fails(5, "missing.onnx does not exist")
    promptmix("predict", exported, new, "--backbone", "bundled").fails(3, "--backbone is for model folders")
    promptmix("predict", exported, new, "--device", "cuda").fails(3, "--device is for model folders")
    promptmix("predict", exported, new, "--precision", "bf16").fails(3, "--precision is for model folders")
    assert promptmix("predict", exported, new, "--out", tmp_path / "parts").code == 2
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    promptmix("predict", tmp_path / "broken.onnx", new).fails(5, "broken.onnx cannot be loaded by onnxruntime")
    promptmix("info", tmp_path / "broken.onnx").fails(5, "broken.onnx cannot be loaded by onnxruntime")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = promptmix("predict", exported, tmp_path / "bad.png", new)
    assert done.code == 4
    assert len(done.out.splitlines()) == 18
    assert "1 of 19 pictures could not be read; the others were predicted" in done.err
