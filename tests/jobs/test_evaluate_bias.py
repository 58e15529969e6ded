import json
import math
from difflib import SequenceMatcher

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.config.evaluation import EvaluateBiasConfig
from distilray.evaluation.bias.evaluate_bias import PAIRS_FILE, SCORES_FILE
from distilray.export.onnx import onnx_graph
from distilray.export.variants import write_onnx_folder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from jobs import evaluate_bias
from tests.tiny.models import MAX_LENGTH, write_tiny_model

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type\n"
SENTENCES = [
    ("the old man was in rome.", "the young man was in rome.", "stereo", "age"),
    ("two people live in the big house.", "two people live in the small new house.", "antistereo", "socioeconomic"),
    ("a good day in spain", "a bad day in italy", "stereo", "nationality"),
]
WORDS = [("cat", "dog", "three"), ("street", "house", "of"), ("people", "many", "on")]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models and small files in the layout of the two data sets."""
    work = tmp_path_factory.mktemp("bias")
    for name, architecture in (("teacher", "bert"), ("student", "distilbert")):
        (work / name).mkdir()
        write_tiny_model(work / name, architecture)
    rows = [f'{number},"{more}","{less}",{rest[0]},{rest[1]}\n' for number, (more, less, *rest) in enumerate(SENTENCES)]
    (work / "pairs.csv").write_text(HEADER + "".join(rows) + "9,,x,stereo,age\n")
    labels = ("stereotype", "anti-stereotype", "unrelated")
    entries = [
        {
            "target": words[0],
            "bias_type": "race",
            "context": "there is a BLANK.",
            "sentences": [
                {"gold_label": label, "sentence": f"there is a {word}."}
                for label, word in zip(labels, words, strict=True)
            ],
        }
        for words in WORDS
    ]
    (work / "dev.json").write_text(json.dumps({"data": {"intrasentence": entries, "intersentence": []}}))
    return work


def run(folders, run_dir, *overrides):
    run_dir.mkdir(parents=True, exist_ok=True)
    values = {
        "run_dir": str(run_dir),
        "models": {name: str(folders / name) for name in ("teacher", "student")},  # the first is the reference
        "crows_pairs_path": str(folders / "pairs.csv"),
        "stereoset_path": str(folders / "dev.json"),
        "max_bad_fraction": 0.3,
        "batch_size": 4,
    }
    recipe = run_dir.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values, sort_keys=False))
    return evaluate_bias.main(["--recipe", str(recipe), *overrides])


@pytest.fixture(scope="module")
def complete(folders, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run") / "run"
    assert run(folders, run_dir) == 0
    return run_dir


@pytest.fixture
def scores(complete):
    return json.loads((complete / SCORES_FILE).read_text())


def plain_likelihoods(model_dir, more, less):
    """Compute the scores of one pair token by token, with the full logits of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    sentences = [tokenizer(text, return_token_type_ids=False)["input_ids"] for text in (more, less)]
    found = [0.0, 0.0]
    for block in SequenceMatcher(None, *sentences).get_matching_blocks():
        for number, start in enumerate((block.a, block.b)):
            for place in range(start, start + block.size):
                ids = torch.tensor([sentences[number]])
                token = int(ids[0, place])
                if token in (tokenizer.cls_token_id, tokenizer.sep_token_id):
                    continue
                ids[0, place] = tokenizer.mask_token_id
                with torch.no_grad():
                    found[number] += float(model(ids).logits[0, place].double().log_softmax(0)[token])
    return found


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_likelihoods_are_what_transformers_gives_token_by_token(folders, complete, name):
    lines = [json.loads(line) for line in (complete / PAIRS_FILE).read_text().splitlines()]
    assert [line["line"] for line in lines] == [2, 3, 4]
    for line, (more, less, *_) in zip(lines, SENTENCES, strict=True):
        assert line[name] == pytest.approx(plain_likelihoods(str(folders / name), more, less), abs=1e-4)


def test_the_shares_are_those_of_the_likelihoods(complete, scores):
    lines = [json.loads(line) for line in (complete / PAIRS_FILE).read_text().splitlines()]
    for name in ("teacher", "student"):
        found = scores["crows_pairs"]["scores"][name]
        assert found["overall"]["share"] == np.mean([line[name][0] > line[name][1] for line in lines])
        assert found["overall"]["pairs"] == 3
    teacher, student = (scores["crows_pairs"]["scores"][name]["overall"] for name in ("teacher", "student"))
    assert student["delta"] == pytest.approx(student["share"] - teacher["share"])
    assert "delta" not in teacher


def test_skipped_rows_are_in_the_scores_and_reported_in_one_line(folders, tmp_path, scores, caplog):
    assert scores["crows_pairs"]["dropped"] == {"an empty sentence": 1}
    assert run(folders, tmp_path / "run") == 0
    messages = [record.getMessage() for record in caplog.records if "pairs.csv" in record.getMessage()]
    assert len(messages) == 1
    assert "line 5: an empty sentence" in messages[0]


def test_the_card_examples_are_printed_first_and_the_limits_last(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run") == 0
    out = " ".join(capsys.readouterr().out.split())
    order = [
        "The White man worked as a [MASK].",
        "The Black woman",
        "every template",
        "groups: mean",
        "CrowS-Pairs: % of",
        "StereoSet, intra",
    ]
    places = [out.index(text) for text in [*order, "not prove fairness"]]
    assert places == sorted(places)
    assert "teacher (reference)" in out


def test_each_probe_has_answers_of_every_model(scores):
    for row in [*scores["probes"]["card"], *scores["probes"]["table"]]:
        assert list(row["answers"]) == ["teacher", "student"]
        for answers in row["answers"].values():
            assert len(answers) == 5
            values = [answer["score"] for answer in answers]
            assert values == sorted(values, reverse=True)


def test_a_copy_of_the_reference_inherits_everything(folders, tmp_path):
    assert run(folders, tmp_path / "run", f"models.student={folders}/teacher") == 0
    found = json.loads((tmp_path / "run" / SCORES_FILE).read_text())
    assert found["crows_pairs"]["scores"]["student"]["overall"]["delta"] == 0.0
    assert found["crows_pairs"]["scores"]["student"]["overall"]["same_choice"] == 1.0
    assert found["stereoset"]["scores"]["student"]["overall"]["icat_delta"] == 0.0
    assert found["probes"]["scores"]["student"]["overlap"]["with_reference"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 64])
def test_the_batch_size_does_not_change_the_scores(folders, scores, tmp_path, batch_size):
    assert run(folders, tmp_path / "run", f"batch_size={batch_size}") == 0
    found = json.loads((tmp_path / "run" / SCORES_FILE).read_text())
    assert found["crows_pairs"] == scores["crows_pairs"]
    assert found["stereoset"] == scores["stereoset"]


def test_two_runs_have_the_same_content_and_a_complete_one_is_skipped(folders, complete, tmp_path, capsys):
    assert run(folders, tmp_path / "run") == 0
    hashes = {json.loads((each / "manifest.json").read_text())["content_hash"] for each in (complete, tmp_path / "run")}
    assert len(hashes) == 1
    capsys.readouterr()
    assert run(folders, tmp_path / "run") == 0
    assert "skipped" in capsys.readouterr().out


def test_another_order_of_the_models_is_another_run(folders, tmp_path, capfd):
    assert run(folders, tmp_path / "run") == 0
    turned = f"models={{student: {folders}/student, teacher: {folders}/teacher}}"
    assert run(folders, tmp_path / "run", turned) == 2
    assert "different models" in capfd.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "3 pairs" in out
    assert "3 examples" in out
    assert "an empty sentence" in out
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("crows_pairs_path=none.csv", "none.csv"),
        ("stereoset_path=none.json", "none.json"),
        ("models.student=none", "none"),
        ("models={}", "models"),
        ("models.bad name=x", "models"),
        ("models.teacher_config=x", "teacher_config"),
        ("stereoset_scoring=mine", "stereoset_scoring"),
    ],
)
def test_bad_input_is_reported_in_one_line_that_names_it(folders, tmp_path, capfd, override, message):
    assert run(folders, tmp_path / "run", override) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_too_many_bad_rows_are_reported_with_their_positions(folders, tmp_path, capfd):
    assert run(folders, tmp_path / "run", "max_bad_fraction=0.1") == 1
    err = capfd.readouterr().err
    assert "1 of 4 rows" in err
    assert "pairs.csv, line 5: an empty sentence" in err


def test_a_pair_that_one_model_cannot_read_is_left_out_for_all(folders, tmp_path, capsys):
    long = "good " * MAX_LENGTH
    (tmp_path / "pairs.csv").write_text((folders / "pairs.csv").read_text() + f"9,{long},bad {long},stereo,age\n")
    change = f"crows_pairs_path={tmp_path}/pairs.csv"
    assert run(folders, tmp_path / "run", change, "max_bad_fraction=0.5", "--dry-run") == 0
    assert "'longer than the maximum length': 1" in capsys.readouterr().out


def test_a_recipe_that_asks_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        EvaluateBiasConfig(run_dir="x", models={"one": "x"}, probes=False)


def test_the_pseudo_likelihoods_are_those_of_probabilities(complete):
    for line in (complete / PAIRS_FILE).read_text().splitlines():
        assert all(math.isfinite(value) and value < 0 for value in json.loads(line)["student"])


@pytest.mark.slow  # the export
def test_an_onnx_folder_says_what_its_torch_model_says(folders, tmp_path):
    model = load_masked_lm(str(folders / "student"))
    write_onnx_folder(tmp_path / "onnx", model, read_tokenizer(str(folders / "student")), onnx_graph(model))
    models = f"models={{student: {folders}/student, onnx: {tmp_path}/onnx}}"
    assert run(folders, tmp_path / "run", models) == 0
    for line in (tmp_path / "run" / PAIRS_FILE).read_text().splitlines():
        assert json.loads(line)["onnx"] == pytest.approx(json.loads(line)["student"], abs=1e-3)
    inputs = json.loads((tmp_path / "run" / "manifest.json").read_text())["run"]["inputs"]
    assert inputs["models.onnx"] == f"{tmp_path}/onnx/model.onnx"
