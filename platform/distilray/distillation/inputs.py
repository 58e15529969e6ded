"""Inputs of a training run: models, shards and teacher cache."""

import hashlib
from collections.abc import Mapping
from typing import Any

from distilray.config.distillation import DistillConfig, TrainingConfig, TrainTeacherConfig
from distilray.distillation.teacher_cache import TeacherCache, cache_content
from distilray.errors import InputError
from distilray.models.heads import initialize_head_bias
from distilray.models.masked_lm import load_masked_lm, read_model_config
from distilray.models.sources import CONFIG_FILE, WEIGHTS_FILE, localize
from distilray.models.student import create_student
from distilray.pretraining_data.shards import ShardSet, check_vocabulary, read_splits
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from distilray.runtime import storage
from distilray.runtime.run_folder import read_manifest


def create_teacher(config: TrainTeacherConfig) -> tuple[Any, None]:
    """Return the model that `train_teacher` trains: the warm start, with a fresh masked-LM head if it has none."""
    model = load_masked_lm(localize(config.encoder_dir), fresh_head=True)
    initialize_head_bias(model, ShardSet(config.shards_dir, "train").token_counts())
    return model, None


def create_student_and_teacher(config: DistillConfig) -> tuple[Any, Any | None]:
    """Return the student and its frozen teacher. A cached teacher only provides the student's initial weights."""
    teacher = load_masked_lm(localize(config.teacher_dir))
    return build_student(teacher, config)[0], teacher if config.teacher_cache_dir is None else None


def build_student(teacher: Any, config: DistillConfig) -> tuple[Any, Mapping[str, str]]:
    """Return the initialized student, and the origin of each of its tensors."""
    student = config.student
    seed = config.seed if student.initialization == "random" else None
    return create_student(teacher, layers=student.layers, fold_segment_a=student.fold_segment_a, random_seed=seed)


def check_layer_map(config: DistillConfig, student: Any, teacher: Any) -> None:
    """Check that both models have the layers of every pair in `losses.layer_map`.

    Raises:
        InputError: a layer does not exist.
    """
    layers = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    for pair in config.losses.layer_map or []:
        for layer, count, name in zip(pair, layers, ("student", "teacher"), strict=True):
            if layer >= count:
                raise InputError(f"losses.layer_map: the {name} has layers 0 to {count - 1}, not {layer}")


def open_shards(config: TrainingConfig, tokenizer_json: str, *, verify: bool = False) -> ShardSet:
    """Open the train split.

    Args:
        tokenizer_json: tokenizer that the shards must have been encoded with.
        verify: True to check the content of the shards of every split.
    """
    for split in read_splits(config.shards_dir) if verify else ():
        ShardSet(config.shards_dir, split, verify=True)
    return ShardSet(config.shards_dir, "train", tokenizer_hash=tokenizer_hash(tokenizer_json))


def check_shards(shards_dir: str, source: str, model_dir: str) -> None:
    """Check that shards were encoded with the tokenizer of a model.

    Args:
        source: the model as the recipe names it.
        model_dir: local folder of the model.

    Raises:
        InputError: see `check_vocabulary`.
    """
    embeddings = read_model_config(model_dir).vocab_size
    check_vocabulary(shards_dir, read_tokenizer(model_dir), model=source, embeddings=embeddings)


def teacher_hash(model_dir: str) -> str:
    """Return the hexadecimal sha256 of the weights and configuration of a local model folder."""
    hashes = [storage.sha256(storage.join(model_dir, name)) for name in (WEIGHTS_FILE, CONFIG_FILE)]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def refuse_dynamic_masks(shards_dir: str) -> None:
    """Refuse shards with dynamic masks: a teacher cache stores the outputs for a single set of masks.

    Raises:
        InputError: the masks are dynamic.
    """
    if read_manifest(shards_dir)["content"]["config"]["masking"]["dynamic"]:
        raise InputError(
            f"{shards_dir}: its masks are drawn in every epoch, but a teacher cache stores the outputs for one set of "
            "masks; encode with masking.dynamic=false, or distill without teacher_cache_dir"
        )


def check_cache_matches(config: DistillConfig) -> None:
    """Check that the teacher cache was made from the same shards and teacher, and that it suits the losses.

    Raises:
        InputError: it does not match; the message names both sides and the fix.
    """
    folder, losses = config.teacher_cache_dir, config.losses
    if folder is None:
        return
    refuse_dynamic_masks(config.shards_dir)
    content = cache_content(folder)
    cached = content["config"]
    if content["inputs"]["shards"] != {"content_hash": read_manifest(config.shards_dir)["content_hash"]}:
        raise InputError(
            f"{folder}: made from other shards than {config.shards_dir}; run jobs.cache_teacher on these shards"
        )
    if content["counts"]["teacher_hash"] != teacher_hash(localize(config.teacher_dir)):
        raise InputError(f"{folder}: made by another teacher than {config.teacher_dir}; run jobs.cache_teacher with it")
    if losses.alpha_ce and cached["temperature"] != losses.temperature:
        raise InputError(
            f"{folder}: softened at temperature {cached['temperature']:g}, and losses.temperature is "
            f"{losses.temperature:g}; make them equal"
        )
    if losses.compares_last_hidden and not cached["hidden_states"]:
        raise InputError(f"{folder}: has no hidden states; set losses.alpha_cos=0, or cache with hidden_states=true")
    if losses.compared_positions == "all" and cached["positions"] == "masked":
        raise InputError(
            f"{folder}: has probabilities at masked tokens only; set losses.ce_positions=masked, or cache with "
            "positions=all"
        )


def check_cache_files(config: DistillConfig, *, verify: bool = False) -> None:
    """Check the files of the teacher cache for every split, if the run uses a cache.

    Args:
        verify: True to compare the sha256 of every local file, not only its size.

    Raises:
        InputError: a file is missing, truncated or changed.
    """
    if config.teacher_cache_dir is None:
        return
    for split in sorted(read_splits(config.shards_dir)):
        shards = ShardSet(config.shards_dir, split)
        TeacherCache(config.teacher_cache_dir, shards, config.losses, verify=verify)
