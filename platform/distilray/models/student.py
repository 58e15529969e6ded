"""Student made from a teacher (DistilBERT paper section 2: every other layer, and the embeddings)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distilray.errors import InputError
from distilray.models.architectures import ARCHITECTURES, Architecture, architecture_of
from distilray.models.heads import is_head_parameter

# Submodules of the embeddings that a student copies.
_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
FRESH = "fresh"
_COPIED_SETTINGS = (
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "dropout",
    "attention_dropout",
    "activation",
    "initializer_range",
    "pad_token_id",
)
_LAYER_NAME = re.compile(r".*\.layer\.\d+")


def evenly_spaced_layers(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """Teacher layers for the student, spread evenly, first and last among them.

    12 -> 6 gives 0, 2, 4, 7, 9, 11, the choice of the original; 6 -> 3 gives 0, 2, 5.
    """
    step = (teacher_layers - 1) / max(student_layers - 1, 1)
    return tuple(round(index * step) for index in range(student_layers))


def create_student(
    teacher: Any, *, layers: Sequence[int] | None = None, fold_segment_a: bool = True, random_seed: int | None = None
) -> tuple[Any, Mapping[str, str]]:
    """A student initialised from its teacher.

    Args:
        teacher: masked language model whose family has students.
        layers: teacher layers to take, in order; half of them when left out.
        fold_segment_a: adds the teacher's vector of segment A to every position, since the student has no segments.
        random_seed: takes nothing from the teacher but its size, and draws all weights anew.

    Returns:
        The student in eval mode, and a table: student tensor -> where it comes from, or `fresh`.

    Raises:
        InputError: the teacher is no BERT, or has no such layer.
    """
    config = teacher.config
    family = architecture_of(config)
    if family.student is None:
        raise InputError(f"a student is made from a BERT teacher, not from a {family.name}; name a BERT as teacher_dir")
    student_family = ARCHITECTURES[family.student]
    layers = tuple(layers or evenly_spaced_layers(config.num_hidden_layers, max(1, config.num_hidden_layers // 2)))
    outside = [layer for layer in layers if not 0 <= layer < config.num_hidden_layers]
    if outside:
        raise InputError(
            f"student.layers: the teacher has layers 0 to {config.num_hidden_layers - 1}, not {outside[0]}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        student = student_family.new_masked_lm(_student_config(config, family, student_family, len(layers)))
    source = _source_names(family, student_family, layers, student.state_dict())
    if random_seed is not None:
        return student.eval(), dict.fromkeys(source, FRESH)
    teacher_state = teacher.state_dict()
    state: dict[str, Tensor] = {name: teacher_state[origin].clone() for name, origin in source.items()}
    if fold_segment_a and family.reads_token_types:
        positions = f"{student_family.embeddings}.position_embeddings.weight"
        state[positions] += teacher_state[f"{family.embeddings}.token_type_embeddings.weight"][0]
        source[positions] += " + segment A"
    student.load_state_dict(state)
    student.tie_weights()
    return student.eval(), source


def summarize_sources(source: Mapping[str, str]) -> list[str]:
    """A table of `create_student` in a few lines: the parts of the student, and where their tensors come from."""
    parts = Counter((_part_of(name), _part_of(origin)) for name, origin in source.items())
    return [f"{student} <- {origin} ({count} tensors)" for (student, origin), count in parts.items()]


def _part_of(name: str) -> str:
    """The layer of a tensor, the embeddings, or the vocabulary head."""
    found = _LAYER_NAME.match(name)
    if found:
        return found[0]
    if is_head_parameter(name):
        return "vocabulary head"
    return name if name == FRESH else f"{name.partition('.')[0]}.embeddings"


def _student_config(config: Any, teacher: Architecture, student: Architecture, layers: int) -> Any:
    copied = {name: teacher.config_value(config, name) for name in _COPIED_SETTINGS}
    return student.new_config(**copied, num_hidden_layers=layers)


def _source_names(
    teacher: Architecture, student: Architecture, layers: Sequence[int], student_state: Mapping[str, Tensor]
) -> dict[str, str]:
    """Return the teacher's tensor for every tensor of the student."""
    pairs = {f"{student.embeddings}.{name}": f"{teacher.embeddings}.{name}" for name in _EMBEDDINGS}
    pairs[f"{student.head.decoder}.weight"] = f"{teacher.head.decoder}.weight"
    pairs[student.decoder_bias] = teacher.decoder_bias
    modules = {student.head.dense: teacher.head.dense, student.head.norm: teacher.head.norm}
    for index, layer in enumerate(layers):
        for new, old in zip(student.layer, teacher.layer, strict=True):
            modules[f"{student.layers}.{index}.{new}"] = f"{teacher.layers}.{layer}.{old}"
    for part in ("weight", "bias"):  # activations have neither
        tensors = {f"{new}.{part}": f"{old}.{part}" for new, old in modules.items()}
        pairs |= {new: old for new, old in tensors.items() if new in student_state}
    assert set(pairs) == set(student_state), set(pairs) ^ set(student_state)
    return pairs
