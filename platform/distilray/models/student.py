"""Student initialization from a teacher (DistilBERT paper, section 2: every other layer, and the embeddings)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distilray.errors import InputError
from distilray.models.architectures import ARCHITECTURES, Architecture, architecture_of
from distilray.models.heads import is_head_parameter

_COPIED_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
FRESH, SINUSOIDAL = "fresh", "sinusoidal"  # origins of tensors that are not copied
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
    """Return evenly spaced teacher layers, including the first and the last one.

    12 -> 6 gives 0, 2, 4, 7, 9, 11, as in the original code; 6 -> 3 gives 0, 2, 5.
    """
    step = (teacher_layers - 1) / max(student_layers - 1, 1)
    return tuple(round(index * step) for index in range(student_layers))


def create_student(
    teacher: Any,
    *,
    layers: Sequence[int] | None = None,
    fold_segment_a: bool = True,
    freeze_positions: bool = False,
    random_seed: int | None = None,
) -> tuple[Any, Mapping[str, str]]:
    """Create a student, and initialize it from its teacher.

    Args:
        teacher: masked language model of a family that has students.
        layers: teacher layers to copy, in order; by default half of them.
        fold_segment_a: add the teacher's segment A embedding to all position embeddings, since the student has no
            segments.
        freeze_positions: exclude the position embeddings from training; with `random_seed` they are sinusoidal.
        random_seed: initialize all weights randomly; only the size is that of the teacher.

    Returns:
        The student in eval mode, and the origin of each tensor: one of the teacher, `fresh` or `sinusoidal`.

    Raises:
        InputError: the teacher is not a BERT, or a layer does not exist.
    """
    family = architecture_of(teacher.config)
    if family.student is None:
        raise InputError(f"a student needs a BERT teacher, not a {family.name}; set teacher_dir to a BERT")
    student_family = ARCHITECTURES[family.student]
    layers = _copied_layers(teacher.config.num_hidden_layers, layers)
    is_sinusoidal = freeze_positions and random_seed is not None
    settings = {"num_hidden_layers": len(layers), "sinusoidal_positions": is_sinusoidal}
    student = _new_student(teacher.config, student_family, random_seed or 0, **settings)
    student_family.positions_of(student).requires_grad_(not freeze_positions)
    positions = f"{student_family.embeddings}.position_embeddings.weight"
    origins = _tensor_origins(family, student_family, layers, student.state_dict())
    if random_seed is not None:
        return student.eval(), dict.fromkeys(origins, FRESH) | ({positions: SINUSOIDAL} if is_sinusoidal else {})
    teacher_state = teacher.state_dict()
    state: dict[str, Tensor] = {name: teacher_state[origin].clone() for name, origin in origins.items()}
    if fold_segment_a and family.reads_token_types:
        state[positions] += teacher_state[f"{family.embeddings}.token_type_embeddings.weight"][0]
        origins[positions] += " + segment A"
    student.load_state_dict(state)
    student.tie_weights()
    return student.eval(), origins


def summarize_origins(origins: Mapping[str, str]) -> list[str]:
    """Return the origins of tensors from `create_student` as lines, one per component of the student."""
    components = Counter((_component(name), _component(origin)) for name, origin in origins.items())
    return [f"{student} <- {origin} ({count} tensors)" for (student, origin), count in components.items()]


def _component(name: str) -> str:
    """Return the layer of a tensor, the embeddings, or the masked-LM head."""
    if match := _LAYER_NAME.match(name):
        return match[0]
    if is_head_parameter(name):
        return "masked-LM head"
    return name if name in (FRESH, SINUSOIDAL) else f"{name.partition('.')[0]}.embeddings"


def _copied_layers(teacher_layers: int, layers: Sequence[int] | None) -> tuple[int, ...]:
    layers = tuple(layers or evenly_spaced_layers(teacher_layers, max(1, teacher_layers // 2)))
    unknown = [layer for layer in layers if not 0 <= layer < teacher_layers]
    if unknown:
        raise InputError(f"student.layers: the teacher has layers 0 to {teacher_layers - 1}, not {unknown[0]}")
    return layers


def _new_student(config: Any, family: Architecture, seed: int, **values: Any) -> Any:
    """Return a model of a family with random weights, the settings of a teacher's config, and some other values."""
    teacher = architecture_of(config)
    copied = {name: teacher.config_value(config, name) for name in _COPIED_SETTINGS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.new_masked_lm(family.new_config(**copied, **values))


def _tensor_origins(
    teacher: Architecture, student: Architecture, layers: Sequence[int], student_state: Mapping[str, Tensor]
) -> dict[str, str]:
    """Return the name of the teacher's tensor for each tensor of the student."""
    pairs = {f"{student.embeddings}.{name}": f"{teacher.embeddings}.{name}" for name in _COPIED_EMBEDDINGS}
    pairs[f"{student.head.decoder}.weight"] = f"{teacher.head.decoder}.weight"
    pairs[student.decoder_bias] = teacher.decoder_bias
    modules = {student.head.dense: teacher.head.dense, student.head.norm: teacher.head.norm}
    for index, layer in enumerate(layers):
        for path, teacher_path in zip(student.layer, teacher.layer, strict=True):
            modules[f"{student.layers}.{index}.{path}"] = f"{teacher.layers}.{layer}.{teacher_path}"
    for kind in ("weight", "bias"):  # activations have neither
        tensors = {f"{new}.{kind}": f"{old}.{kind}" for new, old in modules.items()}
        pairs |= {new: old for new, old in tensors.items() if new in student_state}
    assert set(pairs) == set(student_state), set(pairs) ^ set(student_state)
    return pairs
