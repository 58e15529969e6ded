import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from distilray.config.report import ReportConfig
from distilray.report.model_card import model_card
from distilray.report.runs import read_runs
from tests.tiny.runs import EVIL, STUDENT_WEIGHTS, compared_glue, distillation, known, write_run


def card_of(folder, *names, **changes):
    config = ReportConfig(run_dir="unused", run_paths=[str(folder / name) for name in names], **changes)
    return model_card(read_runs(config.run_paths), config)


def results_of(card):
    data = yaml.safe_load(card.split("---\n")[1])
    return model_index_to_eval_results(data["model-index"])[1] if "model-index" in data else []


def test_the_hub_reads_the_metadata_and_every_result_of_the_student(pipeline):
    folder, hashes = pipeline
    text = card_of(folder, *hashes, model_name="tiny", license="mit", datasets=["a/b"])
    data = ModelCard(text).data
    assert (data.license, data.language, data.pipeline_tag) == ("mit", ["en"], "fill-mask")
    assert (data.datasets, data.model_name) == (["a/b"], "tiny")
    results = {(result.dataset_type, result.dataset_config, result.metric_type): result for result in results_of(text)}
    assert {result.task_type for result in results.values()} == {"fill-mask", "text-classification"}
    expected = {
        ("text", None, "hit@10"): (0.3, "heldout", f"sha256:{hashes['shards']}"),
        ("nyu-mll/glue", "rte", "accuracy"): (0.55, "validation", f"sha256:{'f1' * 32}"),
        ("nyu-mll/crows_pairs", None, "crows_pairs_share"): (0.567, "test", f"sha256:{'f2' * 32}"),
    }
    for key, (value, split, revision) in expected.items():
        result = results[key]
        assert (result.metric_value, result.dataset_split, result.dataset_revision) == (value, split, revision)
    assert "only 100 train examples" in results["nyu-mll/glue", "rte", "accuracy"].metric_name


def test_scores_of_another_model_are_not_in_the_card(pipeline, tmp_path):
    folder, hashes = pipeline
    run = {"counts": {"steps": 1}, "config": {"batch_size": 8}, "inputs": {"shards": known(hashes["shards"])}}
    outputs = {"model/model.safetensors": {"bytes": 5, "sha256": "99" * 32}}
    write_run(tmp_path / "other", "distill", outputs=outputs, **run)
    names = ("shards", "fill_mask", "glue", "bias", "export", "efficiency")
    card = card_of(tmp_path, "other", *[str(folder / name) for name in names])
    assert results_of(card) == []
    assert "Not measured" in card
    assert "biases were not measured" in card


def test_a_model_that_is_identified_by_its_weights_is_found_too(pipeline, tmp_path):
    overall = {"pairs": 1, "ties": 0, "share": 0.5, "interval": None}
    scores = {"models": ["m"], "limits": [], "crows_pairs": {"scores": {"m": {"overall": overall}}}}
    inputs = {"models.m": {"bytes": 3, "fingerprint": STUDENT_WEIGHTS}}
    write_run(
        tmp_path / "bias", "evaluate_bias", config={"models": ["m"]}, inputs=inputs, files={"scores.json": scores}
    )
    card = card_of(pipeline[0], "student", str(tmp_path / "bias"))
    assert [result.metric_value for result in results_of(card)] == [0.5]


def test_a_card_of_a_training_alone_claims_nothing(pipeline):
    card = card_of(pipeline[0], "student")
    assert "model-index" not in card
    assert "license" not in card
    assert "biases were not measured" in card


def test_a_teacher_on_the_hub_is_the_base_model(tmp_path):
    recipe = {"teacher_dir": "hub:google-bert/bert-base-uncased@abc123"}
    write_run(tmp_path / "student", "distill", counts={"steps": 1}, config={"batch_size": 8}, recipe=recipe)
    assert ModelCard(card_of(tmp_path, "student")).data.base_model == "google-bert/bert-base-uncased"
    assert ModelCard(card_of(tmp_path, "student", base_model="x/y")).data.base_model == "x/y"


def layers(own, teacher):
    return {"layers": own, "teacher_layers": teacher}


RANDOM = {"student": {"initialization": "random"}}
ONLY_MASKS = {"losses": {"alpha_ce": 0.0, "alpha_mlm": 1.0, "alpha_cos": 0.0, "temperature": 2.0}}


@pytest.mark.parametrize(
    ("counts", "changes", "sentence"),
    [
        (
            layers(5, 6),
            {"student": {"layers": [0, 1, 2, 4, 5]}},
            "A DistilBERT initialized with 5 of 6 layers (0, 1, 2, 4, 5) of its teacher, a BERT, and trained to "
            "reproduce its predictions.",
        ),
        (layers(3, 6), {"student": {"layers": None}}, "with 3 of 6 layers of its teacher, a BERT,"),
        (layers(1, 1), {}, "with 1 of 1 layer of its teacher"),
        (
            layers(3, 6),
            RANDOM,
            "A DistilBERT with 3 layers, randomly initialized and trained to reproduce the predictions of its teacher, "
            "a BERT with 6 layers.",
        ),
        (
            layers(3, 6),
            RANDOM | ONLY_MASKS,
            "A DistilBERT with 3 layers, randomly initialized and trained to fill masks.",
        ),
        (layers(3, 6), ONLY_MASKS, "of its teacher, a BERT, and trained to fill masks."),
        # Runs of earlier versions did not count the layers.
        ({}, {"student": {"layers": [0, 3]}}, "with 2 layers (0, 3) of its teacher"),
        ({}, {}, "with half the layers of its teacher"),
    ],
)
def test_the_card_describes_the_layers_of_the_student_and_its_objective(tmp_path, counts, changes, sentence):
    run = distillation()
    run["counts"] |= counts
    run["config"] |= changes
    write_run(tmp_path / "student", "distill", **run)
    assert sentence in card_of(tmp_path, "student")


def test_the_card_shows_the_shares_of_the_teachers_scores_and_the_excluded_tasks(tmp_path):
    write_run(tmp_path / "student", "distill", **distillation())
    write_run(tmp_path / "glue", "evaluate_glue", **compared_glue(STUDENT_WEIGHTS))
    card = card_of(tmp_path, "student", "glue")
    assert re.search(r"\| cola \| 30\.0 \| 25\.0 to 35\.0 \| 0\.0 \| \+30\.0 \| 75\.0% \(60\.0% to 90\.0%\)", card)
    assert re.search(r"\| rte .* less than 3 standard errors above the majority baseline \|", card)
    assert "75.0% (60.0% to 90.0%) above chance on cola; left out: rte (teacher at chance)" in card


def test_the_card_shows_losses_data_and_biases_as_escaped_text(pipeline):
    folder, hashes = pipeline
    card = card_of(folder, *hashes)
    for text in (
        "| KL to the teacher's probabilities | 5 |",
        "temperature 2:",
        "30 steps of 16 examples",
        "66.0 million parameters, 60% of the teacher's",
        "| overall | 10 | 56.7 | 46.7 to 66.7 |",
        "A score does not prove fairness.",
        "&lt;script>alert(1)",
    ):
        assert text in card
    assert EVIL not in card
