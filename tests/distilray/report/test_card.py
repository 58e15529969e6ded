import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from distilray.config.report import ReportConfig
from distilray.report.model_card import model_card
from distilray.report.runs import read_runs
from tests.tiny.runs import EVIL, STUDENT_WEIGHTS, compared_glue, distillation, known, write_line, write_run


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    return folder, write_line(folder)


def card_of(folder, *names, **changes):
    config = ReportConfig(run_dir="unused", run_paths=[str(folder / name) for name in names], **changes)
    return model_card(read_runs(config.run_paths), config)


def results_of(card):
    data = yaml.safe_load(card.split("---\n")[1])
    return model_index_to_eval_results(data["model-index"])[1] if "model-index" in data else []


def test_the_hub_reads_the_card(line):
    folder, hashes = line
    card = ModelCard(card_of(folder, *hashes, model_name="tiny", license="mit", datasets=["a/b"]))
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("mit", ["en"], "fill-mask")
    assert card.data.datasets == ["a/b"]
    assert card.data.model_name == "tiny"
    assert {result.task_type for result in card.data.eval_results} == {"fill-mask", "text-classification"}


def test_every_result_is_the_measured_value_of_the_student_with_split_and_revision(line):
    folder, hashes = line
    results = results_of(card_of(folder, *hashes))
    found = {(result.dataset_type, result.dataset_config, result.metric_type): result for result in results}
    assert all(result.dataset_split and result.dataset_revision.startswith("sha256:") for result in results)
    heldout = found["text", None, "hit@10"]
    assert heldout.metric_value == 0.3
    assert (heldout.dataset_split, heldout.dataset_revision) == ("heldout", f"sha256:{hashes['shards']}")
    rte = found["nyu-mll/glue", "rte", "accuracy"]
    assert (rte.metric_value, rte.dataset_split, rte.dataset_revision) == (0.55, "validation", f"sha256:{'f1' * 32}")
    assert "only 100 train examples" in rte.metric_name
    assert found["nyu-mll/crows_pairs", None, "crows_pairs_share"].metric_value == 0.567


def test_scores_of_another_model_are_not_those_of_the_card(line, tmp_path):
    folder, hashes = line
    write_run(
        tmp_path / "other",
        "distill",
        counts={"steps": 1},
        config={"batch_size": 8},
        outputs={"model/model.safetensors": {"bytes": 5, "sha256": "99" * 32}},
        inputs={"shards": known(hashes["shards"])},
    )
    scored = [str(folder / name) for name in ("shards", "fill_mask", "glue", "bias", "export", "efficiency")]
    card = card_of(tmp_path, "other", *scored)
    assert results_of(card) == []
    assert "Not measured" in card
    assert "biases were not measured" in card


def test_a_model_known_by_its_weights_alone_is_found_too(line, tmp_path):
    folder, _ = line
    scores = {"models": ["m"], "limits": [], "crows_pairs": {"scores": {"m": {"overall": cell(0.5)}}}}
    write_run(
        tmp_path / "bias",
        "evaluate_bias",
        config={"models": ["m"]},
        inputs={"models.m": {"bytes": 3, "fingerprint": STUDENT_WEIGHTS}},
        files={"scores.json": scores},
    )
    assert [result.metric_value for result in results_of(card_of(folder, "student", str(tmp_path / "bias")))] == [0.5]


def cell(share):
    return {"pairs": 1, "ties": 0, "share": share, "interval": None}


def test_a_card_of_a_training_alone_claims_nothing(line):
    folder, _ = line
    card = card_of(folder, "student")
    assert "model-index" not in card
    assert "license" not in card
    assert "biases were not measured" in card


def test_the_teacher_of_the_hub_is_the_base_model(tmp_path):
    write_run(
        tmp_path / "student",
        "distill",
        counts={"steps": 1},
        config={"batch_size": 8},
        recipe={"teacher_dir": "hub:google-bert/bert-base-uncased@abc123"},
    )
    assert ModelCard(card_of(tmp_path, "student")).data.base_model == "google-bert/bert-base-uncased"
    assert ModelCard(card_of(tmp_path, "student", base_model="x/y")).data.base_model == "x/y"


ONLY_MASKS = {"losses": {"alpha_ce": 0.0, "alpha_mlm": 1.0, "alpha_cos": 0.0, "temperature": 2.0}}


@pytest.mark.parametrize(
    ("counts", "changes", "told"),
    [
        (
            {"layers": 5, "teacher_layers": 6},
            {"student": {"layers": [0, 1, 2, 4, 5]}},
            "A DistilBERT initialized with 5 of 6 layers (0, 1, 2, 4, 5) of its teacher, a BERT, and trained to "
            "reproduce its predictions.",
        ),
        (
            {"layers": 3, "teacher_layers": 6},
            {"student": {"layers": None}},
            "with 3 of 6 layers of its teacher, a BERT,",
        ),
        ({"layers": 1, "teacher_layers": 1}, {}, "with 1 of 1 layer of its teacher"),
        (
            {"layers": 3, "teacher_layers": 6},
            {"student": {"initialization": "random"}},
            "A DistilBERT with 3 layers, randomly initialized and trained to reproduce the predictions of its teacher, "
            "a BERT with 6 layers.",
        ),
        (
            {"layers": 3, "teacher_layers": 6},
            {"student": {"initialization": "random"}, **ONLY_MASKS},
            "A DistilBERT with 3 layers, randomly initialized and trained to fill masks.",
        ),
        ({"layers": 3, "teacher_layers": 6}, ONLY_MASKS, "of its teacher, a BERT, and trained to fill masks."),
        # Runs of earlier versions did not count the layers.
        ({}, {"student": {"layers": [0, 3]}}, "with 2 layers (0, 3) of its teacher"),
        ({}, {}, "with half the layers of its teacher"),
    ],
)
def test_the_card_tells_the_layers_of_the_student_and_what_it_was_trained_for(tmp_path, counts, changes, told):
    found = distillation()
    found["counts"] |= counts
    found["config"] |= changes
    write_run(tmp_path / "student", "distill", **found)
    assert told in card_of(tmp_path, "student")


def test_the_card_tells_what_is_kept_raw_and_above_chance_with_what_is_left_out(tmp_path):
    write_run(tmp_path / "student", "distill", **distillation())
    write_run(tmp_path / "glue", "evaluate_glue", **compared_glue(STUDENT_WEIGHTS))
    card = card_of(tmp_path, "student", "glue")
    assert re.search(r"\| cola \| 30\.0 \| 25\.0 to 35\.0 \| 0\.0 \| \+30\.0 \| 75\.0% \(60\.0% to 90\.0%\)", card)
    assert re.search(r"\| rte .* less than 3 standard errors above the majority baseline \|", card)
    assert "75.0% (60.0% to 90.0%) above chance on cola; left out: rte (teacher at chance)" in card


def test_the_card_tells_losses_data_and_biases(line):
    folder, hashes = line
    card = card_of(folder, *hashes)
    assert "| KL to the teacher's probabilities | 5 |" in card
    assert "temperature 2:" in card
    assert "30 steps of 16 examples" in card
    assert re.search(r"\| overall \| 10 \| 56\.7 \| 46\.7 to 66\.7 \|", card)
    assert "A score does not prove fairness." in card


def test_text_of_the_runs_is_text_in_the_card(line):
    folder, hashes = line
    card = card_of(folder, *hashes)
    assert EVIL not in card
    assert "&lt;script>alert(1)" in card
