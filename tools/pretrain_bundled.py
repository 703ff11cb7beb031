"""Pretrain the bundled backbone: a small CLIP on pictures of the bundled world and captions made from its style templates.

    python tools/pretrain_bundled.py --steps 5000 --out src/promptmix/backbones/bundled

Pictures are drawn as they are needed, each step its own, from the seed; styles in ``pictograms.UNSEEN_STYLES`` are never drawn.
A caption counts as a positive of a picture when it is true of it: same class, and a template of the picture's style or a
template that says nothing about style. Afterwards the zero-shot accuracy on pictures drawn with another seed is measured, by
style, and written with the command and the minutes into the model card.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import build_vision_tower
from promptmix.backbones.configs import BackboneConfig, ModifiedResNetConfig, PreprocessConfig, TextConfig
from promptmix.backbones.preprocess import normalise_pixels
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.tokenizer import END_OF_TEXT, START_OF_TEXT
from promptmix.backbones.weights import save_folder
from promptmix.data import pictograms
from promptmix.runtime import write_json, write_text

PLAIN_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a {}.", "this is a {}.", "{}")
PLAIN_SHARE = 0.4  # of the captions say nothing about style
VOCABULARY_SIZE = 2048


def train_tokenizer() -> str:
    """A CLIP-style byte-pair tokenizer over the captions; any other text falls back on pieces and single bytes."""
    split = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    pieces = [
        pre_tokenizers.Split(split, "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]

    def dressed(model: models.BPE) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    templates = [template for style in pictograms.ALL_STYLES for template in pictograms.STYLE_TEMPLATES[style]]
    captions = [template.format(name) for template in templates for name in pictograms.CLASS_NAMES]
    learner = dressed(models.BPE(end_of_word_suffix="</w>"))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    # Every byte, alone and at the end of a word, has a token, so that no text is unknown.
    words = alphabet + [byte + "</w>" for byte in alphabet] + ["".join(merge) for merge in merges] + [START_OF_TEXT, END_OF_TEXT]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = dressed(models.BPE(vocab=vocabulary, merges=merges, unk_token=END_OF_TEXT, end_of_word_suffix="</w>"))
    tokenizer.add_special_tokens([START_OF_TEXT, END_OF_TEXT])
    return str(tokenizer.to_str())


class Batches(torch.utils.data.Dataset[tuple[Tensor, list[int], list[int]]]):
    """Batch number i: pictures, class indices, style indices; a pure function of (seed, i)."""

    def __init__(self, seed: int, batch_size: int, steps: int) -> None:
        self.seed, self.batch_size, self.steps = seed, batch_size, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[int], list[int]]:
        generator = np.random.default_rng((self.seed, step))
        classes = generator.integers(len(pictograms.CLASS_NAMES), size=self.batch_size).tolist()
        styles = generator.integers(len(pictograms.PRETRAINING_STYLES), size=self.batch_size).tolist()
        images = [
            np.asarray(
                pictograms.draw(
                    pictograms.CLASS_NAMES[class_index],
                    pictograms.PRETRAINING_STYLES[style],
                    (self.seed + 1) * 2**40 + step * self.batch_size + i,
                )
            )
            for i, (class_index, style) in enumerate(zip(classes, styles, strict=True))
        ]
        return torch.from_numpy(np.stack(images)), classes, styles


def tokenize(tokenizer: Tokenizer, texts: list[str], config: TextConfig) -> tuple[Tensor, Tensor]:
    rows = [[config.start_token, *tokenizer.encode(text, add_special_tokens=False).ids, config.end_token] for text in texts]
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
    return padded, torch.tensor([len(row) - 1 for row in rows])


def encode_texts(text: TextTower, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    tokens, ends = tokenize(tokenizer, texts, text.config)
    return functional.normalize(text.encode_padded(text.token_embedding(tokens), ends), dim=-1)


@torch.no_grad()
def zero_shot_by_style(
    vision: torch.nn.Module, text: TextTower, tokenizer: Tokenizer, config: BackboneConfig, per_cell: int, own_template: bool
) -> dict[str, float]:
    """Accuracy in percent over all classes, by style, on pictures that were not trained on."""
    vision.eval()
    result = {}
    for style in pictograms.ALL_STYLES:
        template = pictograms.STYLE_TEMPLATES[style][0] if own_template else "a photo of a {}."
        class_features = encode_texts(text, tokenizer, [template.format(name) for name in pictograms.CLASS_NAMES])
        drawn = pictograms.draw_set(pictograms.CLASS_NAMES, (style,), per_cell, seed=987_654)
        pixels = torch.from_numpy(np.stack([np.asarray(picture.image) for picture in drawn]))
        predictions = [
            (vision(normalise_pixels(part, config.preprocess)) @ class_features.T).argmax(dim=1) for part in pixels.split(512)
        ]
        labels = torch.arange(len(pictograms.CLASS_NAMES)).repeat_interleave(per_cell)
        result[style] = 100 * float((torch.cat(predictions) == labels).float().mean())
    vision.train()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()

    tokenizer_json = train_tokenizer()
    tokenizer = Tokenizer.from_str(tokenizer_json)
    config = BackboneConfig(
        embedding_width=128,
        text=TextConfig(
            width=128,
            layers=3,
            heads=4,
            mlp_width=512,
            context_length=77,
            vocabulary_size=tokenizer.get_vocab_size(),
            activation="quick_gelu",
            layer_norm_epsilon=1e-5,
            start_token=tokenizer.encode(START_OF_TEXT).ids[0],
            end_token=tokenizer.encode(END_OF_TEXT).ids[0],
        ),
        vision=ModifiedResNetConfig(image_size=pictograms.IMAGE_SIZE, width=24, layers=(1, 1, 1, 1), heads=12),
        preprocess=PreprocessConfig(
            resize=pictograms.IMAGE_SIZE, crop=pictograms.IMAGE_SIZE, mean=(0.5, 0.5, 0.5), standard_deviation=(0.28, 0.28, 0.28)
        ),
    )
    assert isinstance(config.text, TextConfig)
    text, vision = TextTower(config.text, config.embedding_width), build_vision_tower(config)
    torch.nn.init.normal_(text.token_embedding.weight, std=0.02)
    torch.nn.init.normal_(text.position_embedding, std=0.01)
    vision = vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [*text.parameters(), *vision.parameters()]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    kept = [parameter for parameter in parameters if parameter.ndim <= 1] + [logit_scale]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": arguments.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=arguments.learning_rate,
        betas=(0.9, 0.98),
    )
    warm_up = min(300, arguments.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * min(1.0, step / arguments.steps))) + 1e-3),
    )
    captions_generator = np.random.default_rng((arguments.seed, 1))
    batches: Iterator[tuple[Tensor, list[int], list[int]]] = iter(
        torch.utils.data.DataLoader(
            Batches(arguments.seed, arguments.batch_size, arguments.steps), batch_size=None, num_workers=1, prefetch_factor=8
        )
    )
    log: list[dict[str, float]] = []
    for step, (pixels, classes, styles) in enumerate(batches):
        plain = captions_generator.random(len(classes)) < PLAIN_SHARE
        captions: list[str] = []
        says_no_style: list[bool] = []
        for class_index, style, is_plain in zip(classes, styles, plain, strict=True):
            choices = PLAIN_TEMPLATES if is_plain else pictograms.STYLE_TEMPLATES[pictograms.PRETRAINING_STYLES[style]]
            template = choices[int(captions_generator.integers(len(choices)))]
            captions.append(template.format(pictograms.CLASS_NAMES[class_index]))
            # "a photo of a ..." is said of everything, although it is a template of the photo style too.
            says_no_style.append(template in PLAIN_TEMPLATES)
        class_row, style_row = torch.tensor(classes), torch.tensor(styles)
        true_of = (class_row[:, None] == class_row) & ((style_row[:, None] == style_row) | torch.tensor(says_no_style))
        targets = true_of.float()

        distinct = list(dict.fromkeys(captions))
        row_of = {caption: row for row, caption in enumerate(distinct)}
        text_features = encode_texts(text, tokenizer, distinct)[torch.tensor([row_of[caption] for caption in captions])]
        inputs = normalise_pixels(pixels, config.preprocess).contiguous(memory_format=torch.channels_last)
        image_features = functional.normalize(vision(inputs), dim=-1)
        logits = logit_scale.exp() * image_features @ text_features.T
        loss_image = functional.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))
        loss_text = functional.cross_entropy(logits.T, targets.T / targets.T.sum(dim=1, keepdim=True))
        loss = (loss_image + loss_text) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            logit_scale.clamp_(max=math.log(100))
        if step % 50 == 0:
            elapsed = time.monotonic() - started
            sys.stderr.write(
                f"step {step:5d}  loss {float(loss.detach()):.3f}  scale {float(logit_scale.detach().exp()):.1f}  {elapsed:.0f} s\n"
            )
            log.append({"step": step, "loss": float(loss.detach()), "seconds": elapsed})
        if step % 500 == 499 or step == arguments.steps - 1:
            accuracy = zero_shot_by_style(vision, text, tokenizer, config, 3, own_template=False)
            seen = np.mean([accuracy[style] for style in pictograms.PRETRAINING_STYLES])
            unseen = np.mean([accuracy[style] for style in pictograms.UNSEEN_STYLES])
            sys.stderr.write(f"  zero-shot: {seen:.1f} % on pretraining styles, {unseen:.1f} % on unseen styles\n")
            save_folder(arguments.out, config, {"text": text, "vision": vision}, logit_scale, tokenizer_json)

    minutes = (time.monotonic() - started) / 60
    text.eval()
    plain_accuracy = zero_shot_by_style(vision, text, tokenizer, config, 10, own_template=False)
    own_accuracy = zero_shot_by_style(vision, text, tokenizer, config, 10, own_template=True)
    save_folder(arguments.out, config, {"text": text, "vision": vision}, logit_scale, tokenizer_json)
    record = {
        "command": "python tools/pretrain_bundled.py " + " ".join(sys.argv[1:]),
        "minutes": minutes,
        "pictures": arguments.steps * arguments.batch_size,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "zero_shot_plain_template": plain_accuracy,
        "zero_shot_own_template": own_accuracy,
        "log": log,
    }
    write_json(arguments.out / "pretraining.json", record)
    write_text(arguments.out / "README.md", model_card(record))


def model_card(record: dict[str, object]) -> str:
    """The card of the bundled backbone, made from the record of its training."""
    plain, own = record["zero_shot_plain_template"], record["zero_shot_own_template"]
    assert isinstance(plain, dict) and isinstance(own, dict) and isinstance(record["minutes"], float)
    rows = [
        f"| {style}{' (never trained on)' if style in pictograms.UNSEEN_STYLES else ''} | {plain[style]:.1f} | {own[style]:.1f} |"
        for style in pictograms.ALL_STYLES
    ]
    seen = list(pictograms.PRETRAINING_STYLES)
    mean_plain, mean_own = (float(np.mean([scores[style] for style in seen])) for scores in (plain, own))
    every_plain, every_own = (float(np.mean(list(scores.values()))) for scores in (plain, own))
    return "\n".join(
        [
            "# The bundled backbone",
            "",
            "A small CLIP that makes `promptmix demo` and the tests work with no network. **It knows pictograms, not photographs**: use it to",
            "try the tools, and a real CLIP for real pictures.",
            "",
            f"- Made by `{record['command']}` in {record['minutes']:.0f} minutes on 2 CPU cores,",
            f"  on {record['pictures']:,} pictures drawn by `promptmix.data.pictograms` ({len(pictograms.CLASS_NAMES)} classes,"
            f" {len(seen)} styles), never shown the styles {', '.join(pictograms.UNSEEN_STYLES)}.",
            "- ModifiedResNet of width 24 with one block a stage on 64 x 64 pixels; text transformer of 3 layers, width 128; joint width 128;",
            f"  {record['parameters']:,} parameters, stored in half precision. Licence: Apache-2.0. The shapes are glyphs of DejaVu Sans.",
            "",
            f"Zero-shot top-1 accuracy (%) over all {len(pictograms.CLASS_NAMES)} classes, 10 pictures a class and style, drawn with a seed that",
            "was not trained on:",
            "",
            '| style | "a photo of a {}." | first template of the style |',
            "|---|---|---|",
            *rows,
            f"| mean of the {len(seen)} pretraining styles | {mean_plain:.1f} | {mean_own:.1f} |",
            f"| mean of all {len(plain)} styles | {every_plain:.1f} | {every_own:.1f} |",
            "",
        ]
    )


if __name__ == "__main__":
    main()
