"""A DistilBERT student made from a BERT teacher (DistilBERT paper section 2: every other layer, and the embeddings)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DistilBertConfig, DistilBertForMaskedLM

from distilray.errors import InputError

# Teacher name -> student name of the tensors that are copied as they are.
_EMBEDDINGS = {
    "bert.embeddings.word_embeddings.weight": "distilbert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight": "distilbert.embeddings.position_embeddings.weight",
    "bert.embeddings.LayerNorm.weight": "distilbert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias": "distilbert.embeddings.LayerNorm.bias",
}
_HEAD = {
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
}
_LAYER = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_SEGMENT_A = "bert.embeddings.token_type_embeddings.weight"
FRESH = "fresh"
_LAYER_NAME = re.compile(r".*\.layer\.\d+")
_POSITIONS = "distilbert.embeddings.position_embeddings.weight"


def spread_layers(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
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
        teacher: BertForMaskedLM.
        layers: teacher layers to take, in order; half of them when left out.
        fold_segment_a: adds the teacher's vector of segment A to every position, since the student has no segments.
        random_seed: takes nothing from the teacher but its size, and draws all weights anew.

    Returns:
        The student in eval mode, and a table: student tensor -> where it comes from, or `fresh`.

    Raises:
        InputError: the teacher is no BERT, or has no such layer.
    """
    config = teacher.config
    if config.model_type != "bert":
        raise InputError(
            f"a student is made from a BERT teacher, not from a {config.model_type}; name a BERT as teacher_dir"
        )
    layers = tuple(layers or spread_layers(config.num_hidden_layers, max(1, config.num_hidden_layers // 2)))
    outside = [layer for layer in layers if not 0 <= layer < config.num_hidden_layers]
    if outside:
        raise InputError(
            f"student.layers: the teacher has layers 0 to {config.num_hidden_layers - 1}, not {outside[0]}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        student: Any = DistilBertForMaskedLM(_student_config(config, len(layers)))
    source = _source_names(layers, student.state_dict())
    if random_seed is not None:
        return student.eval(), dict.fromkeys(source, FRESH)
    teacher_state = teacher.state_dict()
    state: dict[str, Tensor] = {name: teacher_state[origin].clone() for name, origin in source.items()}
    if fold_segment_a:
        state[_POSITIONS] += teacher_state[_SEGMENT_A][0]
        source[_POSITIONS] += " + segment A"
    student.load_state_dict(state)
    student.tie_weights()
    return student.eval(), source


def show_sources(source: Mapping[str, str]) -> list[str]:
    """A table of `create_student` in a few lines: the parts of the student, and where their tensors come from."""
    parts = Counter((_part_of(name), _part_of(origin)) for name, origin in source.items())
    return [f"{student} <- {origin} ({count} tensors)" for (student, origin), count in parts.items()]


def _part_of(name: str) -> str:
    """The layer of a tensor, the embeddings, or the vocabulary head."""
    found = _LAYER_NAME.match(name)
    if found:
        return found[0]
    if name.startswith(("vocab_", "cls.")):
        return "vocabulary head"
    return name if name == FRESH else f"{name.partition('.')[0]}.embeddings"


def _student_config(config: Any, layers: int) -> DistilBertConfig:
    return DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        n_layers=layers,
        n_heads=config.num_attention_heads,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        sinusoidal_pos_embds=False,
        tie_weights_=True,
    )


def _source_names(layers: Sequence[int], student_state: Mapping[str, Tensor]) -> dict[str, str]:
    """Student tensor -> teacher tensor, for every tensor of the student."""
    pairs = {new: old for old, new in _EMBEDDINGS.items()}
    pairs["vocab_projector.weight"] = "cls.predictions.decoder.weight"
    pairs["vocab_projector.bias"] = "cls.predictions.bias"
    for part in ("weight", "bias"):
        pairs |= {f"{new}.{part}": f"{old}.{part}" for old, new in _HEAD.items()}
        for index, layer in enumerate(layers):
            student_prefix, teacher_prefix = f"distilbert.transformer.layer.{index}", f"bert.encoder.layer.{layer}"
            pairs |= {f"{student_prefix}.{new}.{part}": f"{teacher_prefix}.{old}.{part}" for old, new in _LAYER.items()}
    assert set(pairs) == set(student_state), set(pairs) ^ set(student_state)
    return pairs
