"""What a training run begins from: its models, its shards, the cache of its teacher.

Whether a cached teacher is the one that a distillation asks for.
"""

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


def teacher_hash(model_dir: str) -> str:
    """sha256 over weights and configuration of a local model folder, wherever it lies; hexadecimal."""
    parts = [storage.sha256(storage.join(model_dir, name)) for name in (WEIGHTS_FILE, CONFIG_FILE)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def refuse_dynamic_masks(shards_dir: str) -> None:
    """Refuses shards whose masks are new in every epoch.

    Raises:
        InputError: a cache holds what the teacher says of one mask only.
    """
    if read_manifest(shards_dir)["content"]["config"]["masking"]["dynamic"]:
        raise InputError(
            f"{shards_dir}: its masks are drawn in every epoch, and a teacher's cache holds one of them; "
            "encode with masking.dynamic=false, or distil without teacher_cache_dir"
        )


def check_cache_matches(config: DistillConfig) -> None:
    """Refuses a cache of other shards or another teacher, and one that lacks what the losses ask for.

    Raises:
        InputError: naming both sides and the fix.
    """
    folder, losses = config.teacher_cache_dir, config.losses
    if folder is None:
        return
    refuse_dynamic_masks(config.shards_dir)
    content = cache_content(folder)
    made = content["config"]
    if content["inputs"]["shards"] != {"content_hash": read_manifest(config.shards_dir)["content_hash"]}:
        raise InputError(f"{folder}: made from other shards than {config.shards_dir}; run jobs.cache_teacher on these")
    if content["counts"]["teacher_hash"] != teacher_hash(localize(config.teacher_dir)):
        raise InputError(f"{folder}: made by another teacher than {config.teacher_dir}; run jobs.cache_teacher with it")
    if losses.alpha_ce and made["temperature"] != losses.temperature:
        raise InputError(
            f"{folder}: softened at temperature {made['temperature']:g}, and losses.temperature is "
            f"{losses.temperature:g}; make them equal"
        )
    if losses.compared_positions == "all" and made["positions"] == "masked":
        raise InputError(
            f"{folder}: holds the vocabulary at masked tokens only; set losses.ce_positions=masked, or cache with "
            "positions=all"
        )


def create_teacher(config: TrainTeacherConfig) -> tuple[Any, None]:
    """The model that `train_teacher` trains: the warm start with its vocabulary head, fresh if it has none."""
    model = load_masked_lm(localize(config.encoder_dir), fresh_head=True)
    initialize_head_bias(model, ShardSet(config.shards_dir, "train").token_counts())
    return model, None


def create_student_and_teacher(config: DistillConfig) -> tuple[Any, Any | None]:
    """The student that `distill` trains, and its frozen teacher; a teacher that is cached only gives its weights."""
    teacher = load_masked_lm(localize(config.teacher_dir))
    return build_student(teacher, config)[0], teacher if config.teacher_cache_dir is None else None


def build_student(teacher: Any, config: DistillConfig) -> tuple[Any, Mapping[str, str]]:
    """The student as it begins, and where each of its tensors comes from."""
    given = config.student
    seed = config.seed if given.initialization == "random" else None
    return create_student(teacher, layers=given.layers, fold_segment_a=given.fold_segment_a, random_seed=seed)


def check_layer_map(config: DistillConfig, student: Any, teacher: Any) -> None:
    """Refuses pairs of layers that the models do not have.

    Raises:
        InputError: naming the pair.
    """
    layers = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    for pair in config.losses.layer_map or []:
        for layer, count, name in zip(pair, layers, ("student", "teacher"), strict=True):
            if layer >= count:
                raise InputError(f"losses.layer_map: the {name} has layers 0 to {count - 1}, not {layer}")


def open_shards(config: TrainingConfig, tokenizer_json: str, *, verify: bool = False) -> ShardSet:
    """The train split, if it was encoded with that tokenizer.

    Args:
        verify: whether to check the content of the shards of every split.
    """
    for split in read_splits(config.shards_dir) if verify else ():
        ShardSet(config.shards_dir, split, verify=True)
    return ShardSet(config.shards_dir, "train", tokenizer_hash=tokenizer_hash(tokenizer_json))


def check_shards(shards_dir: str, source: str, model_dir: str) -> None:
    """Check that a model reads the ids of shards.

    Args:
        source: what the recipe calls the model.
        model_dir: its local folder.

    Raises:
        InputError: as `check_vocabulary`.
    """
    embeddings = read_model_config(model_dir).vocab_size
    check_vocabulary(shards_dir, read_tokenizer(model_dir), model=source, embeddings=embeddings)


def check_cache_files(config: DistillConfig, *, verify: bool = False) -> None:
    """Finds the files of the teacher's cache, if the run reads one, for every split.

    Raises:
        InputError: one is missing, torn or changed.
    """
    if config.teacher_cache_dir is None:
        return
    for split in sorted(read_splits(config.shards_dir)):
        shards = ShardSet(config.shards_dir, split)
        TeacherCache(config.teacher_cache_dir, shards, config.losses.compared_positions, verify=verify)
