"""promptmix serve"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from promptmix.cli.output import refuse_options_of_folders
from promptmix.errors import ConfigError, did_you_mean
from promptmix.inference.exported import is_exported
from promptmix.serving.engine import EngineLoader

TOKEN = "PROMPTMIX_SERVE_TOKEN"
ENGINES = ("auto", "torch", "onnx")


def serve(
    models: list[str],
    host: str,
    port: int,
    engine: str,
    backbone: str | None,
    device: str,
    precision: str,
    allow_class_changes: bool,
    allow_urls: bool,
    url_ports: list[int],
    limits: dict[str, float | int],
) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}{did_you_mean(engine, ENGINES)}")
    token = os.environ.get(TOKEN) if allow_class_changes else None
    if allow_class_changes and (token is None or len(token) < 8):  # told here, so that no message ever shows a token
        raise ConfigError(f"--allow-class-changes needs a token of at least 8 signs in the environment variable {TOKEN}")
    try:
        import fastapi  # noqa: F401 - whether they are there
        import h11  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as problem:
        raise ConfigError(f"serving needs {problem.name}; pip install 'promptmix[serve]'") from problem
    from promptmix.config import parse_config
    from promptmix.serving.models import model_names
    from promptmix.serving.server import run_server
    from promptmix.serving.service import Service
    from promptmix.serving.settings import Settings

    paths = _stored(model_names(models), allow_class_changes)
    exported = {path for path in paths.values() if _is_for_onnx(path, engine)}
    if exported == set(paths.values()):
        refuse_options_of_folders(backbone, device, precision)
        if allow_class_changes:
            raise ConfigError("--allow-class-changes is for model folders; the classes of an exported model are fixed")
    given = {"allow_class_changes": allow_class_changes, "token": token, "allow_urls": allow_urls, "url_ports": url_ports}
    settings = parse_config(Settings, {**limits, **given}, "options of serve")
    loader_of = _loader_of(exported, backbone, device, precision, allow_class_changes)
    run_server(Service(paths, loader_of, settings), host, port, lambda address: print(address, file=sys.stdout, flush=True))


def _stored(paths: dict[str, Path], allow_class_changes: bool) -> dict[str, Path]:
    """The same, with models of the hub where they lie on this machine."""
    if all(place.exists() for place in paths.values()):
        return paths
    from promptmix.model_hub import stored_model

    if allow_class_changes:
        raise ConfigError("--allow-class-changes is for models in folders that are here; a model of the hub stays as it is there")
    return {name: stored_model(place) for name, place in paths.items()}


def _is_for_onnx(path: Path, engine: str) -> bool:
    if engine == "torch" and is_exported(path):
        raise ConfigError(f"{path} is an exported model, which torch does not run; leave --engine out, or give its model folder")
    if engine == "onnx" and path.is_dir():
        raise ConfigError(f"{path} is a folder; write a file for --engine onnx with promptmix export {path} --out model.onnx")
    return engine == "onnx" or is_exported(path)


def _loader_of(
    exported: Collection[Path], backbone: str | None, device: str, precision: str, with_text: bool
) -> Callable[[Path], EngineLoader]:
    """What loads a model by its path; torch is imported once a model folder is among them."""
    from promptmix.serving.onnx_engine import OnnxLoader

    @functools.cache
    def of_folders() -> EngineLoader:
        from promptmix.serving.torch_engine import TorchLoader

        return TorchLoader(backbone=backbone, device=device, precision=precision, with_text=with_text)

    return lambda path: OnnxLoader() if path in exported else of_folders()
