"""Small SigLIP folders in the transformers format, of both generations, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

CONTEXT_LENGTH = 16
IMAGE_SIZE = 32
GENERATIONS = ("siglip", "siglip2")
_WORDS = (
    "photo",
    "of",
    "the",
    "in",
    "wild",
    "many",
    "cat",
    "anchor",
    "skull",
    "night",
    "at",
    "a",
    "snow",
    "flake",
    "draw",
    "ing",
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz.-'<>/1"


def unigram_tokenizer() -> tokenizers.Tokenizer:
    """As SigLIP's: word pieces by probability, always a space in front, lower case, no punctuation, </s> at the end."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -5.0 - 0.01 * place) for place, word in enumerate(_WORDS)]
    pieces += [(word, -6.0 - 0.01 * place) for place, word in enumerate(_WORDS) if len(word) > 1]
    pieces += [(letter, -9.0 - 0.01 * place) for place, letter in enumerate(_LETTERS)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    punctuation = Regex(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]""")
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(punctuation, ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ("</s>", "<unk>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def byte_pair_parts() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges as Gemma's: spaces are letters, and what no piece spells falls back to bytes."""
    vocabulary = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *_LETTERS]
    merges: list[tuple[str, str]] = []
    for word in (*_WORDS, *(f"▁{word}" for word in _WORDS)):
        for end in range(1, len(word)):
            if (pair := (word[:end], word[end])) not in merges:
                merges.append(pair)
                vocabulary.append(word[: end + 1])
    return {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}, merges


def byte_pair_tokenizer() -> tokenizers.Tokenizer:
    """As SigLIP 2's file: no lower case, which is the tokenizer class's part."""
    vocabulary, merges = byte_pair_parts()
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def write_siglip(folder: Path, generation: str = "siglip", resample: int = 3, context_length: int = CONTEXT_LENGTH) -> Any:
    """Write a folder; returns the model that it holds, of the transformers library."""
    import transformers

    first = generation == "siglip"
    tokenizer = unigram_tokenizer() if first else byte_pair_tokenizer()
    config = transformers.SiglipConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": tokenizer.get_vocab_size() + 3, "max_position_embeddings": context_length, "projection_size": 48,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": IMAGE_SIZE,
            "patch_size": 10,
        },
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.SiglipModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.logit_scale.data.fill_(3.0)
        model.logit_bias.data.fill_(-7.5)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"model_max_length": context_length, "model_input_names": ["input_ids"]}
    if first:
        settings |= {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "do_lower_case": True}
    else:
        settings |= {
            "tokenizer_class": "GemmaTokenizer", "eos_token": {"content": "<eos>", "special": True}, "pad_token": "<pad>",
            "bos_token": "<bos>", "padding_side": "right", "add_bos_token": False, "add_eos_token": True,
        }  # fmt: skip
    write(folder, "tokenizer_config.json", settings)
    write(folder, "special_tokens_map.json", {key: settings[key] for key in ("eos_token", "pad_token")})
    preprocess = {
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "resample": resample, "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": None,
        "rescale_factor": 1 / 255,
    }  # fmt: skip
    write(folder, "preprocessor_config.json", preprocess)
    return model


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def change(folder: Path, name: str, how: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file of a folder holds."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    how(content)
    write(folder, name, content)
