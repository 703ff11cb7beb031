"""Pretrain the bundled backbone: a small CLIP on drawn pictures and on named emoji artwork, with captions from style templates.

    python tools/pretrain_bundled.py --emoji emoji_named --steps 5500 --out src/promptmix/backbones/bundled

Half of each batch is drawn by ``promptmix.data.pictograms`` as it is needed, half is emoji artwork, varied anew each time
(``tools/emoji_artwork.py``); the styles that both keep as unseen are never shown. A caption counts as a positive of a picture when
it is true of it: the name or keyword is one of the picture's, and the template is of its style or says nothing about style.
Weights follow from the seed and the tokenizer; the tokenizer's training breaks ties in no fixed order, so another run has others.
Afterwards the zero-shot accuracy is measured by style, and written with the command and the minutes into the model card.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

import emoji_artwork
from emoji_artwork import EMOJI_TEMPLATES, Artwork
from promptmix.backbones.base import build_vision_tower
from promptmix.backbones.clip_tokenizer import byte_pair_tokenizer, clip_dress
from promptmix.backbones.configs import BackboneConfig, ModifiedResNetConfig, PreprocessConfig, TextConfig
from promptmix.backbones.pixels import normalise_pixels
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.tokenizer import END_OF_TEXT, START_OF_TEXT
from promptmix.backbones.weights import save_folder
from promptmix.data import pictograms
from promptmix.runtime import write_json, write_text

PLAIN_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a {}.", "this is a {}.", "{}")
PLAIN_SHARE = 0.4  # of the captions say nothing about style
EMOJI_SHARE = 0.5  # of the pictures of a batch
KEYWORD_SHARE = 0.3  # of the captions of emoji tell a keyword instead of the name
EFFECT_SHARE = 0.3  # of the emoji are made dark, blurry and the like, and captioned so
VOCABULARY_SIZE = 3072
TEMPLATES = {**pictograms.STYLE_TEMPLATES, **EMOJI_TEMPLATES}


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Batch number i: pictures, the words true of each, its style, and one caption each.

    Attributes:
        caption_words: the name or keyword that the caption tells.
        caption_styles: the style that the caption tells; None where it says nothing about style.
    """

    pixels: Tensor
    words: list[frozenset[str]]
    styles: list[str]
    captions: list[str]
    caption_words: list[str]
    caption_styles: list[str | None]


def train_tokenizer(artwork: Artwork) -> str:
    """A CLIP-style byte-pair tokenizer over the captions; any other text falls back on pieces and single bytes."""
    templates = [template for style in pictograms.ALL_STYLES for template in pictograms.STYLE_TEMPLATES[style]]
    captions = [template.format(name) for template in templates for name in pictograms.CLASS_NAMES]
    captions += [
        template.format(name) for style in EMOJI_TEMPLATES for template in EMOJI_TEMPLATES[style] for name in artwork.names
    ]
    captions += [template.format(word) for template in PLAIN_TEMPLATES for word in artwork.keywords]
    learner = clip_dress(models.BPE(end_of_word_suffix="</w>"))
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    return str(byte_pair_tokenizer(merges).to_str())


class Batches(torch.utils.data.Dataset[Captioned]):
    """Batch number i, a pure function of (seed, i)."""

    def __init__(self, artwork: Artwork, seed: int, batch_size: int, steps: int) -> None:
        self.seed, self.batch_size, self.steps = seed, batch_size, steps
        self._emoji = [one for style in emoji_artwork.PRETRAINING_EMOJI_STYLES for one in artwork.by_style[style]]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Captioned:
        generator = np.random.default_rng((self.seed, step))
        rows = [
            self._emoji_row(generator) if i < EMOJI_SHARE * self.batch_size else self._drawn_row(generator)
            for i in range(self.batch_size)
        ]
        pixels, words, styles, caption_words = zip(*rows, strict=True)
        captions: list[str] = []
        caption_styles: list[str | None] = []
        for style, word in zip(styles, caption_words, strict=True):
            choices = PLAIN_TEMPLATES if generator.random() < PLAIN_SHARE else TEMPLATES[style]
            template = choices[int(generator.integers(len(choices)))]
            captions.append(template.format(word))
            # "a photo of a ..." is said of everything, although it is a template of the photo style too.
            caption_styles.append(None if template in PLAIN_TEMPLATES else style)
        return Captioned(
            pixels=torch.from_numpy(np.stack(pixels)),
            words=list(words),
            styles=list(styles),
            captions=captions,
            caption_words=list(caption_words),
            caption_styles=caption_styles,
        )

    def _drawn_row(self, generator: np.random.Generator) -> tuple[NDArray[np.uint8], frozenset[str], str, str]:
        name = pictograms.CLASS_NAMES[int(generator.integers(len(pictograms.CLASS_NAMES)))]
        style = pictograms.PRETRAINING_STYLES[int(generator.integers(len(pictograms.PRETRAINING_STYLES)))]
        image = pictograms.draw(name, style, (self.seed + 1) * 2**40 + int(generator.integers(2**39)))
        return np.asarray(image), frozenset([name]), style, name

    def _emoji_row(self, generator: np.random.Generator) -> tuple[NDArray[np.uint8], frozenset[str], str, str]:
        emoji = self._emoji[int(generator.integers(len(self._emoji)))]
        effects = tuple(pictograms.EFFECTS)
        effect = effects[int(generator.integers(len(effects)))] if generator.random() < EFFECT_SHARE else None
        tells_keyword = emoji.keywords and generator.random() < KEYWORD_SHARE
        word = emoji.keywords[int(generator.integers(len(emoji.keywords)))] if tells_keyword else emoji.name
        pixels = emoji_artwork.varied(emoji, effect, generator)
        return pixels, emoji.names | frozenset(emoji.keywords), emoji.style if effect is None else effect, word


def true_of(batch: Captioned) -> Tensor:
    """(picture, caption): 1 where the caption is true of the picture."""
    said = list(dict.fromkeys(batch.caption_words))
    known = torch.tensor([[word in words for word in said] for words in batch.words])
    same_word = known[:, torch.tensor([said.index(word) for word in batch.caption_words])]
    same_style = torch.tensor([[told is None or told == style for told in batch.caption_styles] for style in batch.styles])
    return (same_word & same_style).float()


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


@torch.no_grad()
def names_by_style(
    vision: torch.nn.Module,
    text: TextTower,
    tokenizer: Tokenizer,
    config: BackboneConfig,
    artwork: Artwork,
    styles: Sequence[str],
    own_template: bool,
) -> dict[str, float]:
    """Accuracy in percent of naming emoji artwork among all its names, by style; a drawing of several names may have any of them."""
    vision.eval()
    result = {}
    for style in styles:
        template = EMOJI_TEMPLATES[style][0] if own_template else "a photo of a {}."
        class_features = encode_texts(text, tokenizer, [template.format(name) for name in artwork.names])
        pixels = torch.from_numpy(np.stack([emoji.pixels for emoji in artwork.by_style[style]]))
        parts = pixels.split(512)
        said = torch.cat([(vision(normalise_pixels(part, config.preprocess)) @ class_features.T).argmax(dim=1) for part in parts])
        right = [artwork.names[place] in emoji.names for place, emoji in zip(said.tolist(), artwork.by_style[style], strict=True)]
        result[style] = 100 * float(np.mean(right))
    vision.train()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", type=Path, required=True, help="folder of named emoji artwork")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()

    artwork = emoji_artwork.read_artwork(arguments.emoji)
    tokenizer_json = train_tokenizer(artwork)
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
    batches: Iterator[Captioned] = iter(
        torch.utils.data.DataLoader(
            Batches(artwork, arguments.seed, arguments.batch_size, arguments.steps),
            batch_size=None,
            num_workers=1,
            prefetch_factor=8,
        )
    )
    log: list[dict[str, float]] = []
    for step, batch in enumerate(batches):
        targets = true_of(batch)
        distinct = list(dict.fromkeys(batch.captions))
        row_of = {caption: row for row, caption in enumerate(distinct)}
        text_features = encode_texts(text, tokenizer, distinct)[torch.tensor([row_of[caption] for caption in batch.captions])]
        inputs = normalise_pixels(batch.pixels, config.preprocess).contiguous(memory_format=torch.channels_last)
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
            named = names_by_style(vision, text, tokenizer, config, artwork, tuple(EMOJI_TEMPLATES), own_template=False)
            sys.stderr.write(f"  zero-shot: {seen:.1f} % on pretraining styles, {unseen:.1f} % on unseen styles; emoji by name: ")
            sys.stderr.write(", ".join(f"{style} {share:.1f}" for style, share in named.items()) + "\n")
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
        "emoji_names": len(artwork.names),
        "emoji_plain_template": names_by_style(
            vision, text, tokenizer, config, artwork, tuple(EMOJI_TEMPLATES), own_template=False
        ),
        "emoji_own_template": names_by_style(vision, text, tokenizer, config, artwork, tuple(EMOJI_TEMPLATES), own_template=True),
        "log": log,
    }
    write_json(arguments.out / "pretraining.json", record)
    write_text(arguments.out / "README.md", model_card(record))


def model_card(record: dict[str, Any]) -> str:
    """The card of the bundled backbone, made from the record of its training."""
    plain, own = record["zero_shot_plain_template"], record["zero_shot_own_template"]
    emoji_plain, emoji_own = record["emoji_plain_template"], record["emoji_own_template"]

    def rows(seen: Sequence[str], unseen: Sequence[str], *columns: dict[str, float]) -> list[str]:
        lines = []
        for style in (*seen, *unseen):
            note = " (never trained on)" if style in unseen else ""
            lines.append(
                f"| {style.replace('_', ' ')}{note} | " + " | ".join(f"{column[style]:.1f}" for column in columns) + " |"
            )
        for what, styles in (("trained on", seen), ("never trained on", unseen)):
            means = " | ".join(f"{float(np.mean([column[style] for style in styles])):.1f}" for column in columns)
            lines.append(f"| mean of the {len(styles)} styles {what} | {means} |")
        return lines

    drawn_seen, drawn_unseen = pictograms.PRETRAINING_STYLES, pictograms.UNSEEN_STYLES
    emoji_seen, emoji_unseen = emoji_artwork.PRETRAINING_EMOJI_STYLES, emoji_artwork.UNSEEN_EMOJI_STYLES
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "---",
            "",
            "# The bundled backbone",
            "",
            "A small CLIP that makes `promptmix demo` and the tests work with no network. **It knows drawings, not photographs**: drawn",
            "pictograms and emoji, and the everyday words for them. Use it to try the tools, and a real CLIP for real pictures.",
            "",
            f"- Made by `{record['command']}`",
            f"  in {record['minutes']:.0f} minutes on 2 CPU cores beside other work, on {record['pictures']:,} pictures: half drawn by"
            f" `promptmix.data.pictograms` ({len(pictograms.CLASS_NAMES)} classes,",
            f"  {len(drawn_seen)} styles), half varied from named emoji artwork ({record['emoji_names']:,} names, {len(emoji_seen)} styles by 3 makers:"
            " Noto, Twemoji, Fluent; credits in NOTICE).",
            f"- Never shown: the drawn styles {' and '.join(drawn_unseen)}, and the emoji styles of OpenMoji.",
            "- No picture was mirrored: names hold directions and clock times. Pictures that are the same drawing under two names count as both.",
            "- ModifiedResNet of width 24 with one block a stage on 64 x 64 pixels; text transformer of 3 layers, width 128; joint width 128;",
            f"  {record['parameters']:,} parameters, stored in half precision. Licence: Apache-2.0. The pictograms are glyphs of DejaVu Sans; no",
            "  picture is shipped.",
            "",
            f"Drawn world: zero-shot top-1 accuracy (%) over all {len(pictograms.CLASS_NAMES)} classes, 10 pictures a class and style, drawn with a seed that was",
            "not trained on:",
            "",
            '| style | "a photo of a {}." | first template of the style |',
            "|---|---:|---:|",
            *rows(drawn_seen, drawn_unseen, plain, own),
            "",
            f"Emoji: naming each picture as it lies in the archive among all {record['emoji_names']:,} names (%). Of the styles trained on, these are the training pictures:",
            "the figure says what was remembered. The styles never trained on show the same emoji by other hands.",
            "",
            '| style | "a photo of a {}." | first template of the style |',
            "|---|---:|---:|",
            *rows(emoji_seen, emoji_unseen, emoji_plain, emoji_own),
            "",
        ]
    )


if __name__ == "__main__":
    main()
