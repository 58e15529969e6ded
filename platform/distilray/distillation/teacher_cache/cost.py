"""What a cache of a teacher takes on a disk."""

from collections.abc import Mapping

from distilray.config.distillation import TOP_K, DistillConfig, Positions
from distilray.distillation.teacher_cache.cache import cache_content
from distilray.runtime.run_folder import read_manifest

_HIDDEN_BYTES = 2  # of a dimension
_CANDIDATE_BYTES = 6  # of a token that is kept: 2 for its id, 4 for its logarithm
_GB, _MB = 1e9, 1e6


def cache_bytes(shards_dir: str, *, dim: int, top_k: int, positions: Positions) -> dict[str, int]:
    """Bytes by split: 2 x dim for each token, and 6 x k for each position."""
    content = read_manifest(shards_dir)["content"]
    found: dict[str, int] = {}
    for entry in content["outputs"].values():
        if "split" in entry:
            found[entry["split"]] = found.get(entry["split"], 0) + entry["tokens"]
    return {
        split: tokens * _HIDDEN_BYTES * dim
        + (tokens if positions == "all" else content["counts"][split]["predicted"]) * _CANDIDATE_BYTES * top_k
        for split, tokens in found.items()
    }


def cache_plan(config: DistillConfig, dim: int) -> str:
    """What a distillation says of the cache that it uses, or could use."""
    if config.teacher_cache_dir is not None:
        content = cache_content(config.teacher_cache_dir)
        size = sum(entry["bytes"] for entry in content["outputs"].values())
        made, kept = content["config"], content["counts"]["train"]["kept_probability"]
        return (
            f"used instead of the teacher: {config.teacher_cache_dir}, {told_bytes(size)}, top_k {made['top_k']} "
            f"({kept:.1%} of the probability) at {made['positions']} tokens"
        )
    if read_manifest(config.shards_dir)["content"]["config"]["masking"]["dynamic"]:
        return "none possible: masks are drawn in every epoch"
    positions = config.losses.compared_positions
    size = sum(cache_bytes(config.shards_dir, dim=dim, top_k=TOP_K, positions=positions).values())
    return f"would take about {told_bytes(size)} with top_k {TOP_K} at {positions} tokens"


def told_bytes(size: float) -> str:
    """Bytes for people."""
    return f"{size / _GB:,.1f} GB" if size >= _GB / 10 else f"{size / _MB:,.1f} MB"


def told_splits(sizes: Mapping[str, int]) -> str:
    """The bytes of each split for people."""
    return ", ".join(f"{size:,} for {split} ({told_bytes(size)})" for split, size in sizes.items())
