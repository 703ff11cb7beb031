"""promptmix serve"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from promptmix.errors import ConfigError, did_you_mean

TOKEN = "PROMPTMIX_SERVE_TOKEN"
ENGINES = ("torch",)


def serve(
    models: list[str],
    host: str,
    port: int,
    engine: str,
    backbone: str | None,
    device: str,
    precision: str,
    allow_class_changes: bool,
    limits: dict[str, float | int],
) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}{did_you_mean(engine, ENGINES)}")
    token = os.environ.get(TOKEN) if allow_class_changes else None
    if allow_class_changes and not token:
        raise ConfigError(f"--allow-class-changes needs a token of at least 8 signs in the environment variable {TOKEN}")
    try:
        import fastapi  # noqa: F401 - whether they are there
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as problem:
        raise ConfigError(f"serving needs {problem.name}; pip install 'promptmix[serve]'") from problem
    from promptmix.config import parse_config
    from promptmix.serving.app import Service
    from promptmix.serving.models import TorchLoader, model_names
    from promptmix.serving.server import run_server
    from promptmix.serving.settings import Settings

    folders: dict[str, Path] = model_names(models)
    if not all(place.exists() for place in folders.values()):
        from promptmix.model_hub import stored_model

        if allow_class_changes:
            raise ConfigError(
                "--allow-class-changes is for models in folders that are here; a model of the hub stays as it is there"
            )
        folders = {name: stored_model(place) for name, place in folders.items()}
    values = {**limits, "allow_class_changes": allow_class_changes, "token": token}
    settings = parse_config(Settings, values, "options of serve")
    loader = TorchLoader(backbone=backbone, device=device, precision=precision, with_text=allow_class_changes)
    run_server(Service(folders, loader, settings), host, port, lambda address: print(address, file=sys.stdout, flush=True))
