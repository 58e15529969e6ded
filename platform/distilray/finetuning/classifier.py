"""Encoders with a classification head: from a pretrained folder, from a fine-tuned one, and back to one."""

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

# Of the task that a folder was fine-tuned on, or of none.
_HEAD_PREFIXES = ("classifier.", "pre_classifier.")
_DROPOUTS = ("dropout", "attention_dropout", "classifier_dropout")
_TASK_KEY = "finetuning_task"  # of config.json: the labels of several tasks are the same


def load_classifier(model_dir: str, task: FineTuneTask, *, seed: int, dropout: float | None = None) -> Any:
    """Load an encoder with a fresh head for a task, in eval mode and fp32.

    The head is a function of `seed`; the random state of torch stays as it is. A pooler counts as part of the encoder:
    it is taken when the folder has one, as that of a bare encoder or of another task's model.

    Args:
        model_dir: local folder of an encoder, of a masked language model, or of a model fine-tuned on any task.
        task: gives the number of outputs and the words for them.
        dropout: of encoder and head; the model's own when None.

    Raises:
        InputError: a file is missing, another architecture, or weights that do not fit the config.
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
    _initialise(model, sorted({*absent, *head}), seed)
    return model


def load_fine_tuned(folder: str, task: FineTuneTask) -> Any:
    """A model that was fine-tuned on a task, in eval mode and fp32, with its outputs in the order of `task.labels`.

    Raises:
        InputError: as `load_classifier`; or it has no head, that of another task, or labels of unknown meaning.
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
    """Return the outputs of a fine-tuned model in the order of the labels of a task, by the names in its config.

    Raises:
        InputError: it was fine-tuned on another task, or its labels are not those of the task.
    """
    file, fine_tuned_on = f"{folder}/{CONFIG_FILE}", getattr(config, _TASK_KEY, None)
    if fine_tuned_on not in (None, task.name):
        raise InputError(f"{file}: fine-tuned on {fine_tuned_on}, where a model of {task.name} is needed")
    classifier = architecture_of(config).classifier
    architecture = (config.architectures or [classifier])[0]
    if architecture != classifier:
        raise InputError(
            f"{file}: {architecture} has no head of a task; name a model that was fine-tuned on {task.name}"
        )
    names = [str(config.id2label.get(number, "")) for number in range(config.num_labels)]
    if task.is_regression:
        if len(names) == 1:
            return [0]
        raise InputError(f"{file}: {len(names)} outputs, where {task.name} needs one score")
    plain = list(map(_plain, names))
    for labels in filter(None, (task.labels, task.hub_labels)):
        if sorted(plain) == sorted(map(_plain, labels)):
            return [plain.index(_plain(label)) for label in labels]
    wanted = " or ".join(", ".join(labels) for labels in (task.labels, task.hub_labels) if labels)
    raise InputError(
        f"{file}: labels {', '.join(names)[:200]}, where {task.name} has {wanted}; name a model of {task.name}, or "
        "write these names as id2label, in the order of its outputs"
    )


def _plain(label: str) -> str:
    return "".join(filter(str.isalnum, label)).lower()


def _set_task(config: Any, task: FineTuneTask) -> None:
    config.num_labels = task.num_outputs
    config.id2label = _words(task)
    config.label2id = {word: number for number, word in config.id2label.items()}
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    setattr(config, _TASK_KEY, task.name)


def check_same_tokenizer(teacher: str, model: str) -> None:
    """Check that a teacher reads the ids of the model that it teaches.

    Raises:
        InputError: two tokenizers.
    """
    found, own = (read_tokenizer(localize(source)) for source in (teacher, model))
    if found != own:
        sizes = [f"{vocabulary_of(each).size:,} ids ({tokenizer_hash(each)[:12]})" for each in (found, own)]
        raise InputError(
            f"{teacher}: its tokenizer has {sizes[0]}, and that of {model} {sizes[1]}; name a teacher with the "
            "tokenizer of the model"
        )


def save_classifier(model: Any, uri: str, tokenizer_json: str) -> None:
    """Writes a model folder that plain `transformers` loads; the weights come last, and are whole or absent.

    Raises:
        InputError: it cannot be written; the disk may be full.
    """
    storage.remove_folder(uri)  # old weights must not stand beside a new config
    storage.make_folder(uri)
    for name, data in companion_files(model, tokenizer_json).items():
        storage.write_bytes(storage.join(uri, name), data)
    tensors = {name: tensor.cpu() for name, tensor in model_tensors(model).items()}
    storage.write_bytes(storage.join(uri, WEIGHTS_FILE), save(tensors, metadata=SAFETENSORS_METADATA))


def _words(task: FineTuneTask) -> dict[int, str]:
    return dict(enumerate(task.labels or ("score",)))


def _load(model_dir: str, config: Any) -> tuple[Any, list[str]]:
    """The model, and the names of weights that the folder lacks or has in another shape."""
    with torch.random.fork_rng(devices=[]):  # the library draws what is missing
        family = architecture_of(config)
        model, missing, mismatched = load_weights(family.model_class(family.classifier), model_dir, config)
    # The library leaves them where the file has them; products of matrices round by where these lie in memory.
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()
    return model, sorted([*missing, *mismatched])


@torch.no_grad()
def _initialise(model: Any, names: Sequence[str], seed: int) -> None:
    """Matrices normal with the config's deviation, biases 0, as BERT and DistilBERT begin."""
    generator = torch.Generator().manual_seed(int(hash_integers(seed) >> 1))
    parameters = dict(model.named_parameters())
    for name in names:
        if name.endswith(".bias"):
            parameters[name].zero_()
        else:
            parameters[name].normal_(0.0, model.config.initializer_range, generator=generator)
