"""Whether a cached teacher is the one that a distillation asks for."""

import hashlib

from distilray.config.distillation import DistillConfig
from distilray.distillation.teacher_cache.cache import cache_content
from distilray.errors import InputError
from distilray.models.sources import CONFIG_FILE, WEIGHTS_FILE, localise
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


def check_cache(config: DistillConfig) -> None:
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
    if content["counts"]["teacher_hash"] != teacher_hash(localise(config.teacher_dir)):
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
