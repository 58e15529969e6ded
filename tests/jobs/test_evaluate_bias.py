import json
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.evaluation.bias.evaluate_bias import PAIRS_FILE, SCORES_FILE
from distilray.export.onnx import onnx_graph
from distilray.export.variants import write_onnx_folder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.run_folder import read_manifest
from tests.jobs.commands import file_names, read_json, run_job
from tests.tiny.models import MAX_LENGTH, MAX_SEQ_LENGTH, write_tiny_model

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type\n"
SENTENCES = [
    ("the old man was in rome.", "the young man was in rome.", "stereo", "age"),
    ("two people live in the big house.", "two people live in the small new house.", "antistereo", "socioeconomic"),
    ("a good day in spain", "a bad day in italy", "stereo", "nationality"),
]
WORDS = [("cat", "dog", "three"), ("street", "house", "of"), ("people", "many", "on")]
LABELS = ("stereotype", "anti-stereotype", "unrelated")
MODELS = ("teacher", "student")  # the first is the reference

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models and small files in the formats of CrowS-Pairs, with an empty sentence in line 5, and StereoSet."""
    folder = tmp_path_factory.mktemp("bias")
    for name, architecture in zip(MODELS, ("bert", "distilbert"), strict=True):
        (folder / name).mkdir()
        write_tiny_model(folder / name, architecture)
    rows = [f'{number},"{more}","{less}",{kind},{bias}\n' for number, (more, less, kind, bias) in enumerate(SENTENCES)]
    (folder / "pairs.csv").write_text(HEADER + "".join(rows) + "9,,x,stereo,age\n")
    entries = []
    for words in WORDS:
        sentences = [
            {"gold_label": label, "sentence": f"there is a {word}."} for label, word in zip(LABELS, words, strict=True)
        ]
        entry = {"target": words[0], "bias_type": "race", "context": "there is a BLANK.", "sentences": sentences}
        entries.append(entry)
    (folder / "dev.json").write_text(json.dumps({"data": {"intrasentence": entries, "intersentence": []}}))
    return folder


def run(folder, run_dir, *overrides):
    values = {
        "models": {name: str(folder / name) for name in MODELS},
        "crows_pairs_path": str(folder / "pairs.csv"),
        "stereoset_path": str(folder / "dev.json"),
        "max_bad_fraction": 0.3,
    }
    return run_job("evaluate_bias", run_dir, *overrides, **values)


@pytest.fixture(scope="module")
def complete(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("complete") / "run"
    assert run(folder, run_dir) == 0
    return run_dir


@pytest.fixture
def scores(complete):
    return read_json(complete / SCORES_FILE)


def pairs_of(run_dir):
    return [json.loads(line) for line in (run_dir / PAIRS_FILE).read_text().splitlines()]


def pair_likelihoods(model_dir, more, less):
    """Return the scores of a pair, computed token by token with the full logits of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    sentences = [tokenizer(text, return_token_type_ids=False)["input_ids"] for text in (more, less)]
    likelihoods = [0.0, 0.0]
    for block in SequenceMatcher(None, *sentences).get_matching_blocks():
        for number, start in enumerate((block.a, block.b)):
            for position in range(start, start + block.size):
                ids = torch.tensor([sentences[number]])
                token = int(ids[0, position])
                if token in (tokenizer.cls_token_id, tokenizer.sep_token_id):
                    continue
                ids[0, position] = tokenizer.mask_token_id
                with torch.no_grad():
                    likelihoods[number] += float(model(ids).logits[0, position].double().log_softmax(0)[token])
    return likelihoods


@pytest.mark.parametrize("name", MODELS)
def test_likelihoods_are_those_of_transformers_token_by_token(folder, complete, name):
    pairs = pairs_of(complete)
    assert [pair["line"] for pair in pairs] == [2, 3, 4]
    for pair, (more, less, *_) in zip(pairs, SENTENCES, strict=True):
        assert pair[name] == pytest.approx(pair_likelihoods(str(folder / name), more, less), abs=1e-4)


def test_shares_are_those_of_the_likelihoods_and_skipped_rows_are_counted(complete, scores):
    pairs = pairs_of(complete)
    overall = {name: scores["crows_pairs"]["scores"][name]["overall"] for name in MODELS}
    for name in MODELS:
        assert overall[name]["share"] == np.mean([pair[name][0] > pair[name][1] for pair in pairs])
        assert overall[name]["pairs"] == 3
    assert overall["student"]["delta"] == pytest.approx(overall["student"]["share"] - overall["teacher"]["share"])
    assert "delta" not in overall["teacher"]
    assert scores["crows_pairs"]["dropped"] == {"an empty sentence": 1}


def test_each_probe_has_the_best_answers_of_every_model_in_order(scores):
    for row in [*scores["probes"]["card"], *scores["probes"]["table"]]:
        assert list(row["answers"]) == ["teacher", "student"]
        for answers in row["answers"].values():
            values = [answer["score"] for answer in answers]
            assert values == sorted(values, reverse=True)
            assert len(values) == 5


def test_the_output_starts_with_the_card_examples_and_ends_with_the_limitations(folder, tmp_path, capsys, caplog):
    assert run(folder, tmp_path / "run") == 0
    (message,) = [record.getMessage() for record in caplog.records if "pairs.csv" in record.getMessage()]
    assert "line 5: an empty sentence" in message
    output = " ".join(capsys.readouterr().out.split())
    order = [
        "The White man worked as a [MASK].",
        "The Black woman",
        "every template",
        "groups: mean",
        "CrowS-Pairs: % of",
        "StereoSet, intra",
        "not prove fairness",
    ]
    positions = [output.index(text) for text in order]
    assert positions == sorted(positions)
    scores = read_json(tmp_path / "run" / SCORES_FILE)
    overall = {name: scores["crows_pairs"]["scores"][name]["overall"] for name in MODELS}
    stereoset = [scores["stereoset"]["scores"][name]["overall"] for name in MODELS]
    cells = [f"{each['lms']:.1f} / {each['ss']:.1f} / {each['icat']:.1f}" for each in stereoset]
    cells += [f"{100 * overall['teacher']['share']:.1f} (", f"{100 * overall['student']['delta']:+.1f} ("]
    for text in ("2 model(s)", "teacher (reference)", "overall (3)", "dropped rows: 1 an empty sentence", *cells):
        assert text in output


def test_a_copy_of_the_reference_makes_the_same_choices(folder, tmp_path):
    assert run(folder, tmp_path / "run", f"models.student={folder}/teacher") == 0
    scores = read_json(tmp_path / "run" / SCORES_FILE)
    assert scores["crows_pairs"]["scores"]["student"]["overall"]["delta"] == 0.0
    assert scores["crows_pairs"]["scores"]["student"]["overall"]["same_choice"] == 1.0
    assert scores["stereoset"]["scores"]["student"]["overall"]["icat_delta"] == 0.0
    assert scores["probes"]["scores"]["student"]["overlap"]["with_reference"] == 1.0


def test_the_batch_size_does_not_change_the_scores(folder, scores, tmp_path):
    assert run(folder, tmp_path / "run", "batch_size=3", "probes=false") == 0
    others = read_json(tmp_path / "run" / SCORES_FILE)
    assert others["crows_pairs"] == scores["crows_pairs"]
    assert others["stereoset"] == scores["stereoset"]


def test_the_order_of_the_models_is_part_of_the_identity_of_a_run(folder, complete, error_line):
    swapped = f"models={{student: {folder}/student, teacher: {folder}/teacher}}"
    assert "different models" in error_line(run(folder, complete, swapped))


def test_a_dry_run_counts_rows_that_every_model_can_read_and_writes_nothing(folder, teacher_dir, tmp_path, capsys):
    too_long = "good " * (MAX_SEQ_LENGTH + 1)  # for one of the models
    assert len(too_long.split()) + 3 < MAX_LENGTH
    pairs = tmp_path / "pairs.csv"
    pairs.write_text((folder / "pairs.csv").read_text() + f"9,{too_long},bad {too_long},stereo,age\n")
    overrides = (f"models.student={teacher_dir}", f"crows_pairs_path={pairs}", "max_bad_fraction=0.5")
    assert run(folder, tmp_path / "run", *overrides, "--dry-run") == 0
    output = capsys.readouterr().out
    for text in ("3 pairs", "3 examples", "an empty sentence", "'longer than the maximum length': 1"):
        assert text in output
    assert file_names(tmp_path) == {"pairs.csv", "recipe.yaml"}


def test_too_many_bad_rows_are_reported_with_their_positions(folder, tmp_path, capfd):
    assert run(folder, tmp_path / "run", "max_bad_fraction=0.1") == 1
    errors = capfd.readouterr().err
    assert "1 of 4 rows" in errors
    assert "pairs.csv, line 5: an empty sentence" in errors


@pytest.mark.slow  # the export takes seconds
def test_an_onnx_folder_has_the_likelihoods_of_its_model(folder: Path, tmp_path: Path) -> None:
    model = load_masked_lm(str(folder / "student"))
    write_onnx_folder(tmp_path / "onnx", model, read_tokenizer(str(folder / "student")), onnx_graph(model))
    assert run(folder, tmp_path / "run", f"models={{student: {folder}/student, onnx: {tmp_path}/onnx}}") == 0
    for pair in pairs_of(tmp_path / "run"):
        assert pair["onnx"] == pytest.approx(pair["student"], abs=1e-3)
    inputs = read_manifest(str(tmp_path / "run"))["run"]["inputs"]
    assert inputs["models.onnx"] == f"{tmp_path}/onnx/model.onnx"
