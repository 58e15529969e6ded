import json
import statistics

import pytest

from distilray.config.glue import SCORE
from distilray.finetuning.tasks import TASKS
from distilray.report.page import report_page
from distilray.report.runs import read_runs
from distilray.report.sections.claim import claim_rows, claim_table
from distilray.report.sections.variants import find_variants, variants_table
from tests.tiny.runs import (
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    distillation,
    efficiency,
    fill_mask,
    known,
    training,
    write_run,
)

SAME = {1: 0.6, 2: 0.6, 3: 0.6}


def figures_of(found):
    values = sorted(found.values())
    return {"median": statistics.median(values), "mean": statistics.fmean(values), "std": 0.0, "seeds": len(values),
            "min": values[0], "max": values[-1]}  # fmt: skip


def scored(weights, values, *, config=None):
    """Write a GLUE run with a score by task and seed."""
    rows = [
        {"task": task, "metric": "score", "seed": seed, "value": value}
        for task, found in values.items()
        for seed, value in found.items()
    ]
    summary = {task: dict.fromkeys((SCORE, *TASKS[task].metrics), figures_of(found)) for task, found in values.items()}
    scores = {"model_hash": weights, "tasks": list(values), "missing": [], "summary": summary, "rows": rows}
    baseline = {"cola": 0.0, "rte": 0.5}
    scores |= {"majority": {task: dict.fromkeys((SCORE, *TASKS[task].metrics), baseline[task]) for task in values}}
    scores["remarks"] = {}
    return {"files": {"scores.json": scores}, "config": {"seed": 56, **(config or {})}}


def student(weights, **changes):
    found = distillation()
    found["outputs"]["model/model.safetensors"]["sha256"] = weights
    found["config"] |= {"student": {"initialization": "teacher"}, **changes}
    found["files"]["heldout.jsonl"] = '{"step": 30, "mlm": 2.0, "hit@1": 0.3, "agreement": 0.5}\n'
    return found


@pytest.fixture
def line(tmp_path):
    """Runs of two models, a variant without the KL loss, and the student distilled again on each task."""
    hashes = {"teacher": write_run(tmp_path / "teacher", "train_teacher", **training(TEACHER_WEIGHTS))}
    read = {"teacher": known(hashes["teacher"])}
    losses = {**distillation()["config"]["losses"], "alpha_ce": 0.0}
    hashes["student"] = write_run(tmp_path / "student", "distill", inputs=read, **student(STUDENT_WEIGHTS))
    hashes["no-kl"] = write_run(tmp_path / "no-kl", "distill", inputs=read, **student("c3" * 32, losses=losses))
    teacher = scored(TEACHER_WEIGHTS, {"cola": {1: 0.4, 2: 0.5, 3: 0.6}, "rte": SAME})
    hashes["glue-teacher"] = write_run(
        tmp_path / "glue-teacher", "evaluate_glue", inputs={"model": known(hashes["teacher"])}, **teacher
    )
    beside = {"teacher": known(hashes["glue-teacher"])}
    for name, model, found in (
        ("glue", "student", scored(STUDENT_WEIGHTS, {"cola": {1: 0.3, 2: 0.4, 3: 0.5}, "rte": SAME})),
        ("glue-no-kl", "no-kl", scored("c3" * 32, {"cola": {1: 0.1, 2: 0.2}, "rte": {1: 0.5}})),
        (
            "glue-again",
            "student",
            scored(STUDENT_WEIGHTS, {"cola": {1: 0.4}, "rte": {1: 0.6}}, config={"distillation": {"alpha": 0.5}}),
        ),
    ):  # fmt: skip
        write_run(tmp_path / name, "evaluate_glue", inputs={"model": known(hashes[model]), **beside}, **found)
    both = {"teacher": known(hashes["teacher"]), "student": known(hashes["student"])}
    write_run(tmp_path / "fill_mask", "evaluate_fill_mask", inputs=both, **fill_mask())
    cost = efficiency()
    models = cost["files"]["efficiency.json"]["models"]
    models["teacher"] = {**models["student"], "latency_ms": 40.0, "layer_parameters": 85_000_000}
    models["student"]["layer_parameters"] = 42_500_000
    timed = {f"models.{name}": entry for name, entry in both.items()}
    write_run(tmp_path / "efficiency", "measure_efficiency", inputs=timed, **cost)
    return tmp_path


ALL = ("student", "no-kl", "teacher", "glue", "glue-no-kl", "glue-again", "glue-teacher", "fill_mask", "efficiency")


def runs_of(line, *names):
    return read_runs([str(line / name) for name in names])


def cells_of(runs):
    table = variants_table(find_variants(runs))
    headings = [str(column.header) for column in table.columns]
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    return {row[0]: list(zip(headings, row, strict=True)) for row in rows}


def claim_of(runs):
    """Return the cells of each row by heading."""
    table = claim_table(claim_rows(runs))
    headings = [str(column.header) for column in table.columns]
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    return {row[0]: dict(zip(headings, row, strict=True)) for row in rows}


def test_what_is_kept_of_each_task_and_of_their_mean_stands_beside_the_papers(line):
    found = claim_of(runs_of(line, *ALL))
    assert found["GLUE: cola"] == {
        "": "GLUE: cola",
        "majority": "0.0",
        "teacher": "50.0 (40.0 to 60.0)",
        "student": "40.0 (30.0 to 50.0)",
        "kept": "80.0%",
        "kept above chance": "80.0%",
        "BERT base": "56.3",
        "DistilBERT": "51.3",
        "kept in the paper": "91.1%",
        "above chance in the paper": "91.1%",
    }
    rte = found["GLUE: rte"]
    assert (rte["majority"], rte["kept"], rte["kept above chance"]) == ("50.0", "100.0%", "100.0%")
    # 59.9 of 69.3; above 52.7, the majority of RTE's dev rows, 7.2 of 16.6.
    assert (rte["kept in the paper"], rte["above chance in the paper"]) == ("86.4%", "43.4%")
    mean = found["GLUE: mean of cola, rte"]
    # 50 of 55; above the mean majority of 25, 25 of 30.
    assert [mean[key] for key in ("teacher", "student", "kept", "kept above chance")] == [
        "55.0",
        "50.0",
        "90.9%",
        "83.3%",
    ]
    # 111.2 of 125.6; above 0 and 52.7, 58.5 of 72.9.
    assert (mean["kept in the paper"], mean["above chance in the paper"]) == ("88.5%", "80.2%")


def test_the_papers_mean_of_all_tasks_leaves_out_the_one_at_chance(line):
    nine = claim_of(runs_of(line, *ALL))["GLUE: mean of all nine without wnli"]
    # Of its nine tasks 77.0 of 79.5; of eight 636.7 of 662.0, above 293.2 of baselines 343.5 of 368.8.
    assert (nine["kept in the paper"], nine["above chance in the paper"]) == ("96.2%", "93.1%")
    assert (nine["BERT base"], nine["DistilBERT"]) == ("82.8", "79.6")  # 662.0 and 636.7 of eight


def test_a_task_on_which_the_teacher_is_at_chance_is_left_out_of_the_mean(line):
    found = json.loads((line / "glue-teacher/scores.json").read_text())
    for figures in found["summary"]["rte"].values():
        figures |= {"median": 0.55}  # three standard errors of 277 rows are nine points
    (line / "glue-teacher/scores.json").write_text(json.dumps(found))
    runs = runs_of(line, *ALL)
    lines = claim_of(runs)
    assert lines["GLUE: mean of cola"]["kept above chance"] == "80.0%"
    assert lines["GLUE: rte"]["kept above chance"] == ""
    assert lines["GLUE: mean of all these"]["kept"] == "95.2%"  # 50 of 52.5
    page = report_page(runs, "tiny")
    assert "Left out: rte (teacher less than 3 standard errors above the majority baseline)." in page
    assert "have no intervals: these need the dev predictions of both models" in page


def test_size_speed_and_fill_mask_are_shares_of_the_teacher(line):
    found = claim_of(runs_of(line, *ALL))
    assert [cell for cell in found["parameters of the layers"].values() if cell][1:] == [
        "85,000,000",
        "42,500,000",
        "50.0%",
        "85 M",
        "43 M",
        "50.0%",
    ]
    latency = found["latency, ms (CPU, fp32, batch 1, median)"]
    assert (latency["teacher"], latency["student"], latency["kept"]) == ("40.0", "20.0", "50.0%")
    assert found["fill-mask: hit@10"]["kept"] == "60.0%"


def test_without_glue_the_claim_has_no_word_of_it_and_no_column_of_the_paper(line):
    runs = runs_of(line, "student", "teacher", "fill_mask")
    (name, cells), *_ = claim_of(runs).items()
    assert (name, list(cells)) == ("fill-mask: hit@10", ["", "teacher", "student", "kept"])
    claim = report_page(runs, "tiny").split('id="claim"')[1].split("</section>")[0]
    assert "GLUE" not in claim
    assert "<p>" not in claim


def test_a_fine_tuning_with_a_teacher_is_not_what_the_student_is_compared_by(line):
    names = [name for name in ALL if name != "glue"]
    assert not [name for name, *_ in claim_rows(runs_of(line, *names)) if name.startswith("GLUE")]


def test_without_any_measure_of_both_there_is_no_claim(line):
    assert claim_rows(runs_of(line, "student", "teacher")) == []
    assert 'id="claim"' not in report_page(runs_of(line, "student", "teacher"), "tiny")


def test_the_page_shows_both_tables(line):
    page = report_page(runs_of(line, *ALL), "tiny")
    assert 'id="claim"' in page
    assert 'id="variants"' in page
    assert "losses.alpha_ce 0" in page


def test_a_variant_is_compared_over_the_tasks_and_seeds_that_both_have(line):
    cells = cells_of(runs_of(line, *ALL))
    assert dict(cells["no-kl"])["differs in"] == "losses.alpha_ce 0"
    # CoLA: (0.1 - 0.3 + 0.2 - 0.4) / 2, RTE: 0.5 - 0.6 of seed 1; their mean. Seeds spread by 0.0083 (pooled variance).
    assert cells["no-kl"][-2:] == [("change", "-15.0 ± 4.6"), ("paper", "-2.96")]
    assert dict(cells["no-kl"])["cola"] == "15.0"
    assert dict(cells["no-kl"])["pseudo-perplexity"] == "7.4"


def test_tasks_that_a_variant_was_not_fine_tuned_on_are_left_out_for_all(line):
    write_run(
        line / "glue-cola",
        "evaluate_glue",
        inputs={"model": known(read_runs([str(line / "no-kl")]).subject.content_hash)},
        **scored("c3" * 32, {"cola": {1: 0.1, 2: 0.2}}),
    )
    cells = cells_of(runs_of(line, *(name for name in ALL if name != "glue-no-kl"), "glue-cola"))
    assert "rte" not in dict(cells["student"])
    assert dict(cells["student"])["GLUE mean"] == "40.0"
    assert cells["no-kl"][-2][1].startswith("-20.0")


def test_the_second_distillation_is_a_row_of_its_own(line):
    cells = cells_of(runs_of(line, *ALL))
    assert list(cells) == ["student", "student, distilled again on each task", "no-kl"]
    assert dict(cells["student, distilled again on each task"])["paper"] == ""
    assert cells["student, distilled again on each task"][-2][1].startswith("+5.0")
    assert cells["student"][-2:] == [("change", ""), ("paper", "")]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"student": {"initialization": "teacher", "layers": [0, 1, 2]}}, "student.layers 0, 1, 2"),
        ({"max_steps": 800}, "max_steps 800"),
    ],
)
def test_a_student_that_the_paper_does_not_know_has_no_figure_of_it(line, changes, differs):
    subject = read_runs([str(line / "student")]).subject
    read = {name: known(entry["content_hash"]) for name, entry in subject.inputs.items()}
    write_run(line / "other", "distill", inputs=read, **student("d4" * 32, **changes))
    cells = dict(cells_of(runs_of(line, *ALL, "other"))["other"])
    assert (cells["differs in"], cells["paper"]) == (differs, "")


def test_students_of_another_teacher_are_no_variants(line):
    write_run(line / "stranger", "distill", inputs={"teacher": known("f" * 64)}, **student("d4" * 32))
    assert [variant.name for variant in find_variants(runs_of(line, "student", "stranger"))] == ["student"]


def test_one_student_alone_has_no_table_of_variants(line):
    assert 'id="variants"' not in report_page(runs_of(line, "student", "teacher", "glue"), "tiny")
