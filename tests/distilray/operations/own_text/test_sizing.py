"""Sizes of the stages for a text, a model and a machine."""

from dataclasses import replace

import pytest

from distilray.config.corpus import BuildCorpusConfig
from distilray.config.distillation import DistillConfig, TrainTeacherConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.models.flops import ModelSize
from distilray.operations.own_text.sizing import Hardware, Workload, choose_sizes

MINILM = ModelSize(layers=6, dim=384, hidden_dim=1536, vocabulary=30_522)
BASE = ModelSize(layers=12, dim=768, hidden_dim=3072, vocabulary=30_522)
TEXT = Workload(20_000_000, 5_000_000, 20_000, 500, False, MINILM, 3, False, 512)
TWEETS = replace(TEXT, documents=250_000, document_tokens=25, has_single_sentences=True)
CPU = Hardware("CPU core", 0, 2, 240e9)
GPU = Hardware("NVIDIA H200", 1, 16, 300e12)
CASES = {
    "two cores": (TEXT, CPU),
    "little text": (replace(TEXT, text_bytes=400_000, text_tokens=100_000, documents=400), CPU),
    "much text": (replace(TEXT, text_bytes=2_000_000_000, text_tokens=500_000_000), CPU),
    "one GPU": (replace(TEXT, model=BASE, student_layers=6), GPU),
    "eight GPUs": (replace(TEXT, model=BASE, student_layers=6), replace(GPU, gpus=8)),
    "tweets": (TWEETS, CPU),
    "tweets, eight GPUs": (TWEETS, replace(GPU, gpus=8)),
    "short model": (replace(TEXT, max_length=64), GPU),
}


def values(sizes, stage):
    return {key: setting.value for key, setting in sizes.settings[stage].items()}


@pytest.mark.parametrize("name", CASES)
def test_the_settings_are_valid_recipes(name):
    sizes = choose_sizes(*CASES[name])
    paths = {"run_dir": "-", "shards_dir": "-"}
    BuildCorpusConfig.model_validate({"run_dir": "-", "sources": [{"path": "-"}], **values(sizes, "build_corpus")})
    encode = {"run_dir": "-", "corpus_dir": "-", "tokenizer_dir": "-", **values(sizes, "encode_corpus")}
    EncodeCorpusConfig.model_validate(encode)
    TrainTeacherConfig.model_validate({**paths, "encoder_dir": "-", **values(sizes, "train_teacher")})
    DistillConfig.model_validate({**paths, "teacher_dir": "-", **values(sizes, "distill")})


@pytest.mark.parametrize("minutes", [2.0, 10.0])
def test_training_fills_the_time_if_there_is_enough_text(minutes):
    sizes = choose_sizes(*CASES["much text"], training_minutes=minutes)
    training = sum(sizes.seconds[stage] for stage in ("train_teacher", "distill"))
    starts_and_scores = 2 * 55  # seconds
    assert training - starts_and_scores == pytest.approx(60 * minutes, rel=0.1)


def test_training_never_exceeds_five_epochs():
    work, hardware = CASES["little text"]
    sizes = choose_sizes(work, hardware, training_minutes=1000)
    shards = values(sizes, "encode_corpus")
    for stage in ("train_teacher", "distill"):
        settings = values(sizes, stage)
        assert settings["max_steps"] * settings["batch_size"] * shards["max_seq_length"] <= 5 * work.text_tokens
    assert shards["dupe_factor"] == 5


@pytest.mark.parametrize(
    ("name", "length", "workers", "use_gpu"),
    [
        ("two cores", 128, 1, False),
        ("one GPU", 512, 1, True),
        ("eight GPUs", 512, 8, True),
        ("short model", 64, 1, True),
    ],
)
def test_length_and_workers_follow_from_the_machine(name, length, workers, use_gpu):
    sizes = choose_sizes(*CASES[name])
    scaling = values(sizes, "distill")["scaling"]
    assert values(sizes, "encode_corpus")["max_seq_length"] == length
    assert (scaling["num_workers"], scaling["use_gpu"]) == (workers, use_gpu)


def test_short_documents_are_not_paired_and_make_short_examples_in_larger_batches():
    pairs, single = choose_sizes(TEXT, CPU), choose_sizes(TWEETS, CPU)
    assert values(single, "encode_corpus")["mode"] == "paper"
    assert values(single, "encode_corpus")["max_seq_length"] == 32
    assert values(single, "distill")["batch_size"] == 4 * values(pairs, "distill")["batch_size"]


@pytest.mark.parametrize("documents", [30, 100, 1000])
def test_several_documents_are_held_out(documents):
    work = replace(TEXT, documents=documents)
    assert values(choose_sizes(work, CPU), "encode_corpus")["heldout_fraction"] * documents >= 7.9


def test_without_adaptation_distillation_has_all_the_time():
    both, alone = choose_sizes(*CASES["much text"]), choose_sizes(*CASES["much text"], adapt_teacher=False)
    assert "train_teacher" not in {**alone.settings, **alone.seconds}
    trained = sum(both.seconds[stage] for stage in ("train_teacher", "distill"))
    assert alone.seconds["distill"] == pytest.approx(trained, abs=75)  # less the start of one job


def test_a_trained_head_is_adapted_with_a_lower_rate():
    fresh, trained = (
        values(choose_sizes(replace(TEXT, has_head=has_head), CPU), "train_teacher")["optimizer"]
        for has_head in (False, True)
    )
    assert trained["learning_rate"] < fresh["learning_rate"] < fresh["head_learning_rate"]
    assert "head_learning_rate" not in trained
