import dataclasses

import pytest

from distilray.config.distillation import DistillConfig
from distilray.config.plan import ModelShapeConfig, TextConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.models.flops import model_size, step_flops
from distilray.models.masked_lm import count_parameters
from distilray.operations.plan.machines import MACHINES
from distilray.operations.plan.simulation import training_model
from distilray.operations.plan.workload import (
    estimate_examples,
    estimate_training,
    meta_models,
    shard_bytes,
    text_tokens,
)
from tests.tiny.models import write_tokenizer
from tests.tiny.plan import plan_config
from tests.tiny.shards import open_shards, write_shards

TEXT = TextConfig(wikipedia_words=10_000_000, book_words=2_000_000, tokens_per_word=1.5)


def encoding(**values):
    return EncodeCorpusConfig.model_validate({"run_dir": "-", "corpus_dir": "-", "tokenizer_dir": "-", **values})


def recipe(**values):
    return DistillConfig.model_validate({"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", **values})


def training(examples=None, **values):
    return estimate_training(examples or estimate_examples(TEXT, encoding()), recipe(**values), ModelShapeConfig())


def test_base_models_have_the_published_numbers_of_parameters():
    student, teacher = meta_models(ModelShapeConfig(), recipe())
    assert count_parameters(student) == 66_985_530
    assert count_parameters(teacher) == 109_514_298
    assert student.config.n_layers == 6
    student, _ = meta_models(ModelShapeConfig(), recipe(student={"layers": [0, 5, 11]}))
    assert student.config.n_layers == 3


def test_shards_have_the_size_that_follows_from_their_schema(tmp_path):
    folder = write_shards(
        tmp_path / "shards", write_tokenizer(tmp_path / "tokenizer"), documents=400, chunk_mb=1.0, rows_per_shard=500
    )
    shards = open_shards(folder)
    files = list((tmp_path / "shards" / "shards").glob("train-*.arrow"))
    masks = int(shards.mask_counts(range(len(shards)), [0] * len(shards)).sum())
    stored = sum(file.stat().st_size for file in files)
    expected = shard_bytes(len(shards), shards.tokens, masks)
    assert expected <= stored <= expected + 4000 * len(files)  # schema, metadata and alignment of each file


def test_a_token_and_a_mask_have_the_bytes_of_their_columns():
    base = shard_bytes(100, 0, 0)
    assert base == 100 * (8 + 8 + 2 + 4 + 8 + 8 + 3 * 4) + 100 // 8
    assert shard_bytes(100, 1000, 0) - base == 2 * 1000
    assert shard_bytes(100, 1000, 10) - shard_bytes(100, 1000, 0) == (2 + 2) * 10


def test_tokens_of_the_shards_grow_with_text_and_copies():
    once, thrice = (estimate_examples(TEXT, encoding(dupe_factor=copies)) for copies in (1, 3))
    assert text_tokens(TEXT) == 18_000_000
    assert thrice.tokens == pytest.approx(3 * once.tokens, rel=1e-4)
    assert thrice.text_tokens == once.text_tokens


def test_text_without_pairs_is_written_once():
    estimate = estimate_examples(TEXT, encoding(mode="paper", heldout_fraction=0.0))
    assert estimate.tokens == pytest.approx(text_tokens(TEXT), rel=1e-3)


def test_dynamic_masks_take_no_space():
    dynamic, drawn = (
        estimate_examples(TEXT, encoding(dupe_factor=1, masking={"dynamic": kind})) for kind in (True, False)
    )
    masks = round(drawn.masked_share * drawn.tokens / (1 - 0.01))
    assert drawn.shard_bytes - dynamic.shard_bytes == pytest.approx(4 * masks, rel=1e-3)


def test_flops_are_those_of_the_formula_of_the_training_step():
    examples = estimate_examples(TEXT, encoding(dupe_factor=1))
    estimate = training(examples, batch_size=2000)
    student, teacher = (model_size(model) for model in meta_models(ModelShapeConfig(), recipe()))
    tokens = round(2000 * examples.mean_length)
    squares = round(2000 * examples.mean_length * examples.attended_length)
    rows = {"head_rows": tokens, "teacher_head_rows": tokens}
    assert estimate.flops_per_step == step_flops(
        student, teacher=teacher, tokens=tokens, squared_lengths=squares, **rows
    )


def test_losses_at_the_masked_positions_cost_less():
    everywhere, masked = (training(losses={"ce_positions": positions}) for positions in ("all", "masked"))
    assert masked.flops_per_step < 0.8 * everywhere.flops_per_step


def test_a_cached_teacher_costs_no_flops_and_no_memory():
    running, cached = (training(teacher_cache_dir=cache) for cache in (None, "-"))
    assert cached.flops_per_step < running.flops_per_step
    assert cached.worker_gb < running.worker_gb


def test_epochs_determine_the_steps_and_limited_evaluations_cost_less():
    examples = estimate_examples(TEXT, encoding())
    estimate = training(epochs=2.0, batch_size=1000)
    assert estimate.steps == 2 * examples.count // 1000
    assert estimate.tokens == pytest.approx(2 * examples.tokens, rel=0.01)
    few, all_of_them = (training(intervals={"heldout_examples": count}) for count in (10, None))
    assert few.heldout_flops == pytest.approx(all_of_them.heldout_flops * 10 / examples.heldout, rel=1e-3)


def test_rates_between_workers_are_in_bytes_per_second(tmp_path):
    machine = dataclasses.replace(MACHINES["p4d.24xlarge"], network_gbit_per_s=400)
    machine = dataclasses.replace(machine, device=dataclasses.replace(machine.device, link_gb_per_s=600))
    model = training_model(plan_config(tmp_path), training(), machine)
    assert (model.network_rate, model.link_rate) == (50e9, 600e9)
