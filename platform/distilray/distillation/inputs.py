"""What a training run begins from: its models, its shards, the cache of its teacher."""

from collections.abc import Mapping
from typing import Any

from distilray.config.distillation import DistillConfig, TrainingConfig, TrainTeacherConfig
from distilray.distillation.teacher_cache.cache import TeacherCache
from distilray.errors import InputError
from distilray.models.heads import start_head_bias
from distilray.models.masked_lm import load_masked_lm, read_model_config
from distilray.models.sources import localise
from distilray.models.student import create_student
from distilray.pretraining_data.shards import ShardSet, check_vocabulary, splits_of_run
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash


def create_teacher(config: TrainTeacherConfig) -> tuple[Any, None]:
    """The model that `train_teacher` trains: the warm start with its vocabulary head, fresh if it has none."""
    model = load_masked_lm(localise(config.encoder_dir), fresh_head=True)
    start_head_bias(model, ShardSet(config.shards_dir, "train").token_counts())
    return model, None


def create_student_and_teacher(config: DistillConfig) -> tuple[Any, Any | None]:
    """The student that `distill` trains, and its frozen teacher; a teacher that is cached only gives its weights."""
    teacher = load_masked_lm(localise(config.teacher_dir))
    return student_of(teacher, config)[0], teacher if config.teacher_cache_dir is None else None


def student_of(teacher: Any, config: DistillConfig) -> tuple[Any, Mapping[str, str]]:
    """The student as it begins, and where each of its tensors comes from."""
    given = config.student
    seed = config.seed if given.initialisation == "random" else None
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
    for split in splits_of_run(config.shards_dir) if verify else ():
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


def open_cache(config: DistillConfig, *, verify: bool = False) -> None:
    """Finds the files of the teacher's cache, if the run reads one, for every split.

    Raises:
        InputError: one is missing, torn or changed.
    """
    if config.teacher_cache_dir is None:
        return
    for split in sorted(splits_of_run(config.shards_dir)):
        shards = ShardSet(config.shards_dir, split)
        TeacherCache(config.teacher_cache_dir, shards, config.losses.compared_positions, verify=verify)
