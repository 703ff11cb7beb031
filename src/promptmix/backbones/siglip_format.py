"""SigLIP and SigLIP 2 in the transformers format, to the fields and the parameter names of this package.

``config.json`` leaves out what equals that format's own defaults, so those stand here. What a tokenizer does beyond
``tokenizer.json`` is partly known by the name of its class alone; the names that are known stand here too, and any other is refused.
The numbers of special tokens in ``config.json`` are not read: they are CLIP's, left over, and nothing in that format uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from promptmix.backbones.clip_format import PREPROCESSOR_CONFIG, transformers_preprocess
from promptmix.backbones.configs import BackboneConfig
from promptmix.backbones.files import TRANSFORMERS_WEIGHTS, read_json, read_weights, required, validated
from promptmix.backbones.transformers_names import rename_transformers
from promptmix.errors import BackboneError

__all__ = ["read_siglip_folder"]

_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu")
_NO_LIMIT = 10**9  # a model_max_length beyond this is that format's way to say that there is none


@dataclass(frozen=True, kw_only=True)
class _TokenizerClass:
    """What a tokenizer class does where ``tokenizer_config.json`` and ``tokenizer.json`` do not say."""

    remove_punctuation: bool
    adds_end_token: bool
    padding_side: Literal["right"] | None


# SigLIP 2 was trained on Gemma's tokenizer, and its first files name the class so. Both lower-case, as in training.
_GEMMA = _TokenizerClass(remove_punctuation=False, adds_end_token=False, padding_side=None)
_TOKENIZER_CLASSES = {
    "SiglipTokenizer": _TokenizerClass(remove_punctuation=True, adds_end_token=True, padding_side="right"),
    "GemmaTokenizer": _GEMMA,
    "GemmaTokenizerFast": _GEMMA,
    "Siglip2Tokenizer": _GEMMA,
}


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The values of one JSON object, checked one at a time; ``prefix`` is the object's own key in its file, with a dot."""

    path: Path
    values: dict[str, Any]
    prefix: str = ""

    def part(self, key: str) -> _Values:
        value = required(self.values, key, self.path)
        if not isinstance(value, dict):
            raise self.problem(key, "not a JSON object", value)
        return _Values(path=self.path, values=value, prefix=f"{self.prefix}{key}.")

    def get(self, key: str, default: Any = None) -> Any:
        """The value; with no default the key must be there."""
        if key not in self.values and default is None:
            raise BackboneError(f"{self.path}: {self.prefix}{key} is missing")
        return self.values.get(key, default)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.problem(key, "not a whole number above 0", value)
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e300:
            raise self.problem(key, "not a number above 0", value)
        return float(value)

    def one_of(self, key: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
        value = self.get(key, default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise self.problem(key, f"which is none of {', '.join(map(repr, allowed))}", value)
        return value

    def problem(self, key: str, wrong: str, value: Any) -> BackboneError:
        return BackboneError(f"{self.path}: {self.prefix}{key} is {value!r}, {wrong}")


def read_siglip_folder(folder: Path, raw: dict[str, Any]) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Config and weights, by our names, of a folder whose ``config.json`` is ``raw``.

    Beside it lie ``preprocessor_config.json``, ``tokenizer_config.json`` and ``tokenizer.json``.

    Raises:
        BackboneError: a file, key or weight is missing or surprising, or this is a SigLIP 2 of variable resolution.
    """
    config = _config(raw, folder)
    tensors = read_weights(folder, TRANSFORMERS_WEIGHTS)
    if "logit_bias" not in tensors:  # which no shape would miss
        raise BackboneError(f"{folder}: the weights of the SigLIP lack logit_bias")
    renamed = rename_transformers(tensors, _NAMES, config)
    if _PROBE in renamed:
        renamed[_PROBE] = renamed[_PROBE].flatten()  # one query, not one for each picture and position
    return config, renamed


def _config(raw: dict[str, Any], folder: Path) -> BackboneConfig:
    path = folder / "config.json"
    if raw.get("model_type") == "siglip2":
        raise BackboneError(
            f"{path}: model_type 'siglip2' is the variable-resolution (NaFlex) SigLIP 2, which is not supported; use one of fixed"
            " resolution, such as google/siglip2-base-patch16-224"
        )
    whole = _Values(path=path, values=raw)
    text, vision = whole.part("text_config"), whole.part("vision_config")
    vision.one_of("vision_use_head", (True,), True)
    vision.one_of("num_channels", (3,), 3)
    width = text.whole("hidden_size", 768)
    # Absent, or null in what was saved before the key had a meaning: as wide as the tower.
    embedding_width = width if text.values.get("projection_size") is None else text.whole("projection_size")
    context_length = text.whole("max_position_embeddings", 64)
    preprocess = transformers_preprocess(folder)
    if preprocess.resize_mode != "squash":
        raise BackboneError(
            f"{folder / PREPROCESSOR_CONFIG}: size has a shortest_edge; SigLIP's pictures have a height and a width"
        )
    fields = {
        "embedding_width": embedding_width,
        "text": {
            "kind": "siglip",
            **_sizes(text),
            "context_length": context_length,
            "vocabulary_size": text.whole("vocab_size", 32000),
            **_tokens(folder, context_length),
        },
        "vision": {
            "kind": "siglip",
            "image_size": vision.whole("image_size", 224),
            "patch_size": vision.whole("patch_size", 16),
            **_sizes(vision),
        },
        "preprocess": preprocess,
    }
    return validated(BackboneConfig, fields, path)


def _sizes(part: _Values) -> dict[str, Any]:
    width, heads = part.whole("hidden_size", 768), part.whole("num_attention_heads", 12)
    if width % heads:
        raise part.problem("hidden_size", f"which does not divide by num_attention_heads {heads}", width)
    return {
        "width": width,
        "layers": part.whole("num_hidden_layers", 12),
        "heads": heads,
        "mlp_width": part.whole("intermediate_size", 3072),
        "activation": part.one_of("hidden_act", _ACTIVATIONS, "gelu_pytorch_tanh"),
        "layer_norm_epsilon": part.positive("layer_norm_eps", 1e-6),
    }


def _tokens(folder: Path, context_length: int) -> dict[str, Any]:
    """Special tokens, and what is done to a text before ``tokenizer.json`` sees it."""
    path = folder / "tokenizer_config.json"
    settings = _Values(path=path, values=read_json(path))
    tokenizer = _Values(path=folder / "tokenizer.json", values=read_json(folder / "tokenizer.json"))
    known = _TOKENIZER_CLASSES[settings.one_of("tokenizer_class", tuple(_TOKENIZER_CLASSES))]
    if "model_max_length" in settings.values:
        longest = settings.positive("model_max_length")  # a number of no limit is written as a float
        if longest < _NO_LIMIT and longest != context_length:
            raise settings.problem(
                "model_max_length",
                f"but the text tower has {context_length} positions (max_position_embeddings in config.json)",
                settings.values["model_max_length"],
            )
    padding = tokenizer.values.get("padding")
    of_file = str(padding.get("direction", "")).lower() if isinstance(padding, dict) else None
    settings.one_of("padding_side", ("right",), of_file or known.padding_side)

    end, pad = _special_token(settings, "eos_token"), _special_token(settings, "pad_token")
    start_added, end_added = _added_tokens(settings, tokenizer, known, end)
    if start_added:
        raise BackboneError(f"{start_added} puts a start token before every text; SigLIP's texts have none")
    if not end_added:
        raise BackboneError(
            f"{path}: add_eos_token is {settings.values.get('add_eos_token', 'missing')}, and post_processor of {tokenizer.path.name}"
            f" does not add {end!r} either; SigLIP's texts have an end token"
        )
    numbers = _added_token_numbers(tokenizer)
    for key, token in (("eos_token", end), ("pad_token", pad)):
        if token not in numbers:
            raise BackboneError(f"{tokenizer.path}: added_tokens has no special token {token!r}, the {key} of {path.name}")
    return {
        "end_token": numbers[end],
        "pad_token": numbers[pad],
        "lower_case": settings.one_of("do_lower_case", (True, False), True),
        "remove_punctuation": known.remove_punctuation,
    }


def _special_token(settings: _Values, key: str) -> str:
    """The text of a special token by its role; ``special_tokens_map.json``, where there is one, must agree."""
    found: dict[Path, str] = {}
    also = settings.path.with_name("special_tokens_map.json")
    for one in (settings, _Values(path=also, values=read_json(also) if also.is_file() else {})):
        value = one.values.get(key)
        if value is None:
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str) or not text:
            raise one.problem(key, "not a token", value)
        found[one.path] = text
    if not found:
        raise BackboneError(f"{settings.path}: {key} is missing")
    if len(set(found.values())) > 1:
        raise BackboneError(f"{also}: {key} is {found[also]!r}, but {settings.path.name} says {found[settings.path]!r}")
    return next(iter(found.values()))


def _added_tokens(settings: _Values, tokenizer: _Values, known: _TokenizerClass, end: str) -> tuple[str, bool]:
    """Who adds a start token ("" where nobody does), and whether the end token is added."""
    if "add_bos_token" in settings.values or "add_eos_token" in settings.values:
        # Either word in the settings overrules tokenizer.json, and then stands alone.
        starts = settings.one_of("add_bos_token", (True, False), False)
        return f"{settings.path}: add_bos_token" if starts else "", settings.one_of("add_eos_token", (True, False), False)
    if known.adds_end_token:
        return "", True
    processor = tokenizer.values.get("post_processor")
    try:
        steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
        single: list[Any] = next((step["single"] for step in steps if step["type"] == "TemplateProcessing"), [])
        added = [piece["SpecialToken"]["id"] if "SpecialToken" in piece else None for piece in single]
    except (TypeError, KeyError) as problem:
        raise tokenizer.problem("post_processor", "which is no template of special tokens", processor) from problem
    starts = added[:1] not in ([], [None])
    return f"{tokenizer.path}: post_processor" if starts else "", added[-1:] == [end]


def _added_token_numbers(tokenizer: _Values) -> dict[str, int]:
    tokens = tokenizer.get("added_tokens")
    try:
        return {token["content"]: int(token["id"]) for token in tokens if token["special"]}
    except (TypeError, KeyError, ValueError) as problem:
        raise BackboneError(f"{tokenizer.path}: added_tokens is not a list of tokens with id, content and special") from problem


_NAMES = {
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.position_embedding",
    "text_model.final_layer_norm.weight": "text.final_norm.weight",
    "text_model.final_layer_norm.bias": "text.final_norm.bias",
    "text_model.head.weight": "text.projection.weight",
    "text_model.head.bias": "text.projection.bias",
    "vision_model.embeddings.patch_embedding.weight": "vision.patch_embedding.weight",
    "vision_model.embeddings.patch_embedding.bias": "vision.patch_embedding.bias",
    "vision_model.embeddings.position_embedding.weight": "vision.position_embedding",
    "vision_model.post_layernorm.weight": "vision.post_norm.weight",
    "vision_model.post_layernorm.bias": "vision.post_norm.bias",
    "vision_model.head.probe": "vision.head.probe",
    "vision_model.head.attention.in_proj_weight": "vision.head.query_key_value.weight",
    "vision_model.head.attention.in_proj_bias": "vision.head.query_key_value.bias",
    "vision_model.head.attention.out_proj.weight": "vision.head.attention_output.weight",
    "vision_model.head.attention.out_proj.bias": "vision.head.attention_output.bias",
    "vision_model.head.layernorm.weight": "vision.head.mlp_norm.weight",
    "vision_model.head.layernorm.bias": "vision.head.mlp_norm.bias",
    "vision_model.head.mlp.fc1.weight": "vision.head.mlp_in.weight",
    "vision_model.head.mlp.fc1.bias": "vision.head.mlp_in.bias",
    "vision_model.head.mlp.fc2.weight": "vision.head.mlp_out.weight",
    "vision_model.head.mlp.fc2.bias": "vision.head.mlp_out.bias",
}
_PROBE = "vision.head.probe"
