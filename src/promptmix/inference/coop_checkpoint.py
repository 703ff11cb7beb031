"""Published checkpoints of CoOp (arXiv 2109.01134) and its kin, read and made into models of this package.

They are files of ``torch.save`` with a ``state_dict`` of the prompt learner: ``ctx``, the context vectors, and ``token_prefix`` and
``token_suffix``, the embeddings of the start token and of the class names of the training, which here come from the backbone and the
classes that are given. KgCoOp and ProGrad learn the same context by other losses, so that their files are the same. The files are read
without unpickling: nothing they name is imported or called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import known_licence
from promptmix.backbones.torch_archive import read_torch_archive
from promptmix.data.records import check_class_names
from promptmix.errors import BackboneError, CheckpointError, ConfigError, did_you_mean, listed
from promptmix.methods.registry import build_method
from promptmix.model_folder import SavedModel
from promptmix.nn.classifier import Classifier
from promptmix.prompts.assemble import embeddings_to_learn
from promptmix.prompts.soft_prompt import ClassNamePosition

__all__ = ["CoOpCheckpoint", "convert_checkpoint", "read_checkpoint"]

_LARGEST_FILE = 1 << 30  # bytes; 1,000 classes with contexts of their own, and the optimizer's state, are a tenth of it
_MOST_CONTEXT_TOKENS = 64
_SAME_START = 0.99  # cosine; what half precision rounds is far less
_LEARNT, _IGNORED = "ctx", ("token_prefix", "token_suffix")
_SUPPORTED = "only CoOp's prompt learner is read (ctx, token_prefix, token_suffix), which KgCoOp and ProGrad have too"
# By a part of a key, whose checkpoint it is.
_OTHERS = {
    "meta_net": "CoCoOp",
    "compound_prompts": "MaPLe",
    "proj.": "MaPLe",
    "VPT": "a method with prompts in the towers, such as MaPLe or PromptSRC",
    "w_lora": "CLIP-LoRA",
}
# What programs in such files may name: tensors, plain containers, numbers of numpy, and the schedulers that trainers store beside them.
_MODULES = ("torch", "collections", "numpy", "copyreg", "copy_reg", "_codecs", "dassl")
_BUILT_IN = ("set", "frozenset", "dict", "list", "tuple", "object", "slice", "complex", "bytearray")


@dataclass(frozen=True, kw_only=True)
class CoOpCheckpoint:
    """What a checkpoint says of the prompt, and where it comes from.

    Attributes:
        context: the learnt vectors, of all classes or of each.
        num_classes: of the training, as ``token_prefix`` has them; None where the file does not say.
        suffix_length: tokens behind start token and context; None where the file does not say.
        start_embedding: of the start token in the training's backbone; None where the file does not say.
        file: its name, without the folder. sha256: of its bytes.
    """

    context: Float[Tensor, "*class token width"]
    num_classes: int | None
    suffix_length: int | None
    start_embedding: Float[Tensor, "width"] | None
    file: str
    sha256: str


def read_checkpoint(path: Path) -> CoOpCheckpoint:
    """Read a file of ``torch.save``, as CoOp's trainer writes it, or its ``state_dict`` alone.

    Raises:
        CheckpointError: the file is missing, too large or damaged, names what no checkpoint needs, or is of a method that is not
            supported; the message says which it seems to be.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; give the model.pth.tar-N of a run, in its folder prompt_learner")
    if path.stat().st_size > _LARGEST_FILE:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, more than any checkpoint of prompts; {_SUPPORTED}")
    try:
        tensors = read_torch_archive(path, allowed=_may_be_named)
    except BackboneError as problem:
        raise CheckpointError(str(problem)) from problem
    # A run stores the prompt learner alone, and others the whole model.
    learner = {name.removeprefix("module.").removeprefix("prompt_learner."): tensor for name, tensor in tensors.items()}
    _refuse_others(path, learner)
    context = learner[_LEARNT]
    shape = tuple(context.shape)
    if context.dim() not in (2, 3) or not context.is_floating_point() or 0 in shape or shape[-2] > _MOST_CONTEXT_TOKENS:
        raise CheckpointError(
            f"{path}: ctx is {shape} of {str(context.dtype).removeprefix('torch.')}; it must be (tokens, width) or (classes, tokens, width)"
            f" with at most {_MOST_CONTEXT_TOKENS} tokens"
        )
    context = context.float()  # a number of double precision may be too large for it
    if not bool(context.isfinite().all()):
        raise CheckpointError(f"{path}: ctx has numbers that are not finite; take the file of another epoch")
    prefix, suffix = (learner.get(name) for name in _IGNORED)
    counts = {
        name: one.shape[0] for name, one in (("token_prefix", prefix), ("token_suffix", suffix)) if one is not None and one.dim()
    }
    if context.dim() == 3:
        counts["ctx"] = shape[0]
    if len(set(counts.values())) > 1:
        raise CheckpointError(
            f"{path}: numbers of classes differ: {listed(f'{name} has {count}' for name, count in counts.items())}"
        )
    for name, one in (("token_prefix", prefix), ("token_suffix", suffix)):
        if one is not None and (one.dim() != 3 or one.shape[2] != shape[-1] or not one.shape[0]):
            raise CheckpointError(f"{path}: {name} is {tuple(one.shape)}, which does not go with a context of width {shape[-1]}")
    return CoOpCheckpoint(
        context=context,
        num_classes=next(iter(counts.values()), None),
        suffix_length=None if suffix is None else suffix.shape[1],
        start_embedding=prefix[0, 0].float() if prefix is not None and prefix.shape[1] else None,
        file=path.name,
        sha256=_sha256(path),
    )


def convert_checkpoint(
    checkpoint: CoOpCheckpoint, backbone: Backbone, class_names: Sequence[str], position: str = "end"
) -> SavedModel:
    """A model of method ``coop`` with the context of a checkpoint.

    Args:
        backbone: the one of the training, with its text tower.
        class_names: of the training, in its order; with one context for all classes they may be others, but as many.
        position: of the class name among the context vectors, as in the training: ``end``, ``middle`` or ``front``.

    Raises:
        ConfigError: there is no such position. DataError: class names that cannot be used.
        CheckpointError: the context does not fit the backbone's text tower, or not the number of classes.
    """
    if position not in get_args(ClassNamePosition):
        raise ConfigError(f"unknown position {position!r} of the class name{did_you_mean(position, get_args(ClassNamePosition))}")
    names = check_class_names(class_names)
    tower, tokenizer = backbone.require_text()
    length, width = checkpoint.context.shape[-2:]
    if width != tower.config.width:
        raise CheckpointError(
            f"{checkpoint.file}: ctx has width {width}, but the text tower of {backbone.name!r} has {tower.config.width}; give the backbone it"
            " was trained on"
        )
    if checkpoint.num_classes is not None and checkpoint.num_classes != len(names):
        raise CheckpointError(
            f"{checkpoint.file} was trained with {checkpoint.num_classes} classes, but {len(names)} are given; give those of its training, in"
            " their order"
        )
    context_length = tower.config.context_length
    if checkpoint.suffix_length is not None and 1 + length + checkpoint.suffix_length != context_length:
        raise CheckpointError(
            f"{checkpoint.file}: start token, {length} context vectors and {checkpoint.suffix_length} more make"
            f" {1 + length + checkpoint.suffix_length} tokens, but the text tower of {backbone.name!r} reads {context_length}"
        )
    options = {
        "context_tokens": length,
        "class_name_position": position,
        "class_specific": checkpoint.context.dim() == 3,
    }
    method = build_method("coop", options, backbone, names)
    method.load_learnt_state({"context": checkpoint.context})
    classifier = method.classifier()
    assert isinstance(classifier, Classifier)
    if not bool(classifier.class_features.isfinite().all()):
        raise CheckpointError(
            f"{checkpoint.file}: ctx has numbers so large that the text tower gives none that are finite; take the file of another epoch"
        )
    notes = []
    if checkpoint.suffix_length is not None:
        notes.append("token_prefix and token_suffix of the checkpoint are not used: they hold the class names of its training")
    if checkpoint.start_embedding is not None and tokenizer.start_token is not None:
        start = embeddings_to_learn(tower, [tokenizer.start_token])[0].cpu().float()
        if float(functional.cosine_similarity(start, checkpoint.start_embedding, dim=0)) < _SAME_START:
            notes.append("the start token of the checkpoint is not that of this backbone: it was probably trained on another")
    return SavedModel(
        method="coop",
        options=method.saved_options(),
        class_names=names,
        trained_class_names=names,
        more_class_names=(),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=method.expert_names,
        classifier=classifier.cpu(),
        learnt=method.learnt_state(),
        training={
            "converted_from": {"kind": "CoOp checkpoint", "file": checkpoint.file, "sha256": checkpoint.sha256},
            "backbone_licence": known_licence(backbone.name),
            "notes": notes,
        },
    )


def _may_be_named(module: str, name: str) -> bool:
    if module in ("builtins", "__builtin__"):
        return name in _BUILT_IN
    return module.partition(".")[0] in _MODULES


def _refuse_others(path: Path, learner: Mapping[str, Tensor]) -> None:
    for part, method in _OTHERS.items():
        found = next((name for name in learner if part in name), None)
        if found is not None:
            raise CheckpointError(f"{path} is of {method} (it has {found}); {_SUPPORTED}")
    if _LEARNT not in learner:
        raise CheckpointError(f"{path} has no ctx, but {listed(sorted(learner), 5)}; {_SUPPORTED}")
    foreign = sorted(learner.keys() - {_LEARNT, *_IGNORED})
    if foreign:
        raise CheckpointError(f"{path} has {listed(foreign, 5)} besides the context, which CoOp does not have; {_SUPPORTED}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
