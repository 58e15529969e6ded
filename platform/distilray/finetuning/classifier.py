"""Encoders with a classification head: loading from pretrained or fine-tuned folders, and saving."""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save

from distilray.errors import InputError
from distilray.finetuning.tasks import FineTuneTask
from distilray.models.architectures import architecture_of
from distilray.models.masked_lm import (
    SAFETENSORS_METADATA,
    companion_files,
    load_weights,
    model_tensors,
    read_model_config,
    require_all_weights,
)
from distilray.models.sources import CONFIG_FILE, WEIGHTS_FILE, localize
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.seeding import hash_integers

# Weights that depend on the task that a model was fine-tuned on.
_HEAD_PREFIXES = ("classifier.", "pre_classifier.")
_DROPOUTS = ("dropout", "attention_dropout", "classifier_dropout")
_TASK_KEY = "finetuning_task"  # key in config.json; needed because several tasks have the same labels


def load_classifier(model_dir: str, task: FineTuneTask, *, seed: int, dropout: float | None = None) -> Any:
    """Load an encoder with a fresh head for a task, in eval mode and fp32.

    The head only depends on `seed`; the random state of torch is not changed. A pooler is part of the encoder and
    is loaded if the folder has one, as with bare encoders and fine-tuned models.

    Args:
        model_dir: local folder of an encoder, of a masked language model, or of a model fine-tuned on any task.
        task: determines the number of outputs and their names.
        dropout: dropout of encoder and head; None keeps that of the model.

    Raises:
        InputError: a file is missing, the architecture is unknown, or weights do not match the config.
    """
    config = read_model_config(model_dir)
    family = architecture_of(config)
    _set_task(config, task)
    if dropout is not None:
        for name in _DROPOUTS:
            setattr(config, family.config_keys.get(name, name), dropout)
    model, absent = _load(model_dir, config)
    fresh = (*_HEAD_PREFIXES, *([f"{family.pooler}."] if family.pooler else []))
    require_all_weights(model_dir, [name for name in absent if not name.startswith(fresh)])
    head = [name for name, _ in model.named_parameters() if name.startswith(_HEAD_PREFIXES)]
    _initialize(model, sorted({*absent, *head}), seed)
    return model


def load_fine_tuned(folder: str, task: FineTuneTask) -> Any:
    """Load a model that was fine-tuned on a task, in eval mode and fp32, with outputs in the order of `task.labels`.

    Raises:
        InputError: as in `load_classifier`; or the model has no head, the head of another task, or unknown labels.
    """
    config = read_model_config(folder)
    order = output_order(folder, config, task)
    model, absent = _load(folder, config)
    require_all_weights(folder, absent)
    head = model.classifier
    with torch.no_grad():
        for parameter in (head.weight, head.bias):
            parameter.copy_(parameter[order].clone())
    _set_task(model.config, task)
    return model


def output_order(folder: str, config: Any, task: FineTuneTask) -> list[int]:
    """Return the indices of a model's outputs in the order of the task's labels, matched by the names in its config.

    Raises:
        InputError: the model was fine-tuned on another task, or its labels are not those of the task.
    """
    file, fine_tuned_on = f"{folder}/{CONFIG_FILE}", getattr(config, _TASK_KEY, None)
    if fine_tuned_on not in (None, task.name):
        raise InputError(f"{file}: fine-tuned on {fine_tuned_on}, but a model for {task.name} is needed")
    classifier = architecture_of(config).classifier
    architecture = (config.architectures or [classifier])[0]
    if architecture != classifier:
        raise InputError(f"{file}: {architecture} has no task head; choose a model that was fine-tuned on {task.name}")
    names = [str(config.id2label.get(number, "")) for number in range(config.num_labels)]
    if task.is_regression:
        if len(names) == 1:
            return [0]
        raise InputError(f"{file}: {len(names)} outputs, but {task.name} needs one score")
    normalized = list(map(_normalize_label, names))
    for labels in filter(None, (task.labels, task.hub_labels)):
        if sorted(normalized) == sorted(map(_normalize_label, labels)):
            return [normalized.index(_normalize_label(label)) for label in labels]
    wanted = " or ".join(", ".join(labels) for labels in (task.labels, task.hub_labels) if labels)
    raise InputError(
        f"{file}: labels {', '.join(names)[:200]}, but {task.name} has {wanted}; choose a model for {task.name}, or "
        "set these names as id2label, in the order of its outputs"
    )


def _normalize_label(label: str) -> str:
    return "".join(filter(str.isalnum, label)).lower()


def _set_task(config: Any, task: FineTuneTask) -> None:
    config.num_labels = task.num_outputs
    config.id2label = dict(enumerate(task.labels or ("score",)))
    config.label2id = {label: number for number, label in config.id2label.items()}
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    setattr(config, _TASK_KEY, task.name)


def check_same_tokenizer(teacher: str, model: str) -> None:
    """Check that a teacher and the model that it teaches have the same tokenizer.

    Raises:
        InputError: the tokenizers differ.
    """
    teacher_json, model_json = (read_tokenizer(localize(source)) for source in (teacher, model))
    if teacher_json != model_json:
        sizes = [
            f"{vocabulary_of(each).size:,} ids ({tokenizer_hash(each)[:12]})" for each in (teacher_json, model_json)
        ]
        raise InputError(
            f"{teacher}: its tokenizer has {sizes[0]}, and that of {model} {sizes[1]}; choose a teacher with the "
            "tokenizer of the model"
        )


def save_classifier(model: Any, uri: str, tokenizer_json: str) -> None:
    """Write a model folder that plain `transformers` can load. The weights are written last and atomically.

    Raises:
        InputError: the folder cannot be written, for example because the disk is full.
    """
    storage.remove_folder(uri)  # never combine old weights with a new config
    storage.make_folder(uri)
    for name, data in companion_files(model, tokenizer_json).items():
        storage.write_bytes(storage.join(uri, name), data)
    tensors = {name: tensor.cpu() for name, tensor in model_tensors(model).items()}
    storage.write_bytes(storage.join(uri, WEIGHTS_FILE), save(tensors, metadata=SAFETENSORS_METADATA))


def _load(model_dir: str, config: Any) -> tuple[Any, list[str]]:
    """Return the model, and the names of weights that are missing from the folder or have another shape."""
    with torch.random.fork_rng(devices=[]):  # transformers draws missing weights at random
        family = architecture_of(config)
        model, missing, mismatched = load_weights(family.model_class(family.classifier), model_dir, config)
    # transformers keeps weights in the mapped file, and the rounding of matrix products depends on memory alignment.
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()
    return model, sorted([*missing, *mismatched])


@torch.no_grad()
def _initialize(model: Any, names: Sequence[str], seed: int) -> None:
    """Draw matrices from a normal distribution and set biases to 0, as in BERT and DistilBERT."""
    generator = torch.Generator().manual_seed(int(hash_integers(seed) >> 1))
    parameters = dict(model.named_parameters())
    for name in names:
        if name.endswith(".bias"):
            parameters[name].zero_()
        else:
            parameters[name].normal_(0.0, model.config.initializer_range, generator=generator)
