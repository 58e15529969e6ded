import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from distilray.config.glue import GLUE_TASKS
from distilray.config.recipe import load_recipe
from distilray.distillation.ablation import PAPER
from distilray.evaluation.reproduction import ABLATIONS, SCALES, chosen, stages_of
from distilray.finetuning.tasks import TASKS
from distilray.stages import STAGES as JOBS
from jobs import run_reproduction
from tests.distilray.finetuning.small_glue import small_rows, write_glue, write_lines

PLACES = re.compile(r"runs/reproduction(?:-base)?/[a-z-]+")
RECIPES = Path("jobs/recipes")
STAGES = {scale: {stage.name: stage for stage in stages_of(SCALES[scale])} for scale in SCALES}
ALL = [(scale, name) for scale, stages in STAGES.items() for name in stages]


def config_of(scale, name, best):
    """The config of a stage; `best` stands in for what a search writes."""
    stage = STAGES[scale][name]
    recipe = RECIPES / SCALES[scale].recipes / f"{stage.job}.yaml" if stage.recipe is None else best
    return load_recipe(str(recipe), stage.overrides("data/glue"), JOBS[stage.job].config_class)


@pytest.fixture
def best(tmp_path):
    """A recipe as a search writes it."""
    settings = {"learning_rate": 1e-4, "epochs": 2, "max_train_examples": 3000}
    values = {"run_dir": "x", "model_dir": "x", "glue_dir": "data/glue", "tasks": ["cola", "sst2", "rte"]}
    values["per_task"] = {task: dict(settings) for task in GLUE_TASKS}
    (tmp_path / "best.yaml").write_text(json.dumps(values))  # which is YAML
    return tmp_path / "best.yaml"


@pytest.mark.parametrize(("scale", "name"), ALL)
def test_a_stage_changes_nothing_in_its_recipe_that_its_job_does_not_know(scale, name, best):
    assert config_of(scale, name, best).run_dir == STAGES[scale][name].run_dir


def test_a_fine_tuning_takes_the_found_rate_and_more_of_the_data_than_the_search(best):
    config = config_of("sample", "evaluate_glue-student", best)
    cola, sst2 = config.of_task("cola"), config.of_task("sst2")
    assert (cola.learning_rate, cola.max_train_examples, cola.epochs) == (1e-4, None, 3)
    assert sst2.max_train_examples == 6000


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["evaluate_glue-teacher", "evaluate_glue-student"])
def test_the_two_models_of_the_claim_are_fine_tuned_with_three_seeds_or_more(scale, name, best):
    config = config_of(scale, name, best)
    assert all(len(config.of_task(task).seeds) >= 3 for task in SCALES[scale].seeds)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", [*ABLATIONS, *SCALES["base"].trials])
def test_a_variant_differs_from_the_student_in_what_its_row_says_alone(scale, name, best):
    student, variant = (config_of(scale, f"distill-{each}", best).identity_values() for each in ("student", name))
    changed = {key for key in variant if variant[key] != student[key]}
    said = {change.partition("=")[0].partition(".")[0] for change in {**ABLATIONS, **SCALES[scale].trials}[name]}
    assert changed == said - {"rhythm"}


def test_the_ablation_is_that_of_the_paper():
    assert set(ABLATIONS) == set(PAPER)


@pytest.mark.parametrize("scale", SCALES)
def test_no_two_stages_share_a_folder(scale):
    assert len({stage.run_dir for stage in STAGES[scale].values()}) == len(STAGES[scale])


@pytest.mark.parametrize("scale", SCALES)
def test_every_folder_that_a_stage_reads_is_written_by_an_earlier_one(scale, best):
    written = set()
    for name, stage in STAGES[scale].items():
        config = config_of(scale, name, best)
        if stage.recipe:
            assert str(Path(stage.recipe).parent) in written
        read = set(PLACES.findall(config.model_dump_json())) - {stage.run_dir}
        assert read <= written, name
        written.add(stage.run_dir)


@pytest.mark.parametrize("scale", SCALES)
def test_the_report_reads_all_other_stages(scale, best):
    config = config_of(scale, "write_report", best)
    others = {stage.run_dir for name, stage in STAGES[scale].items() if name != "write_report"}
    assert {*config.run_paths, *config.optional_paths} == others


def test_stages_are_chosen_by_patterns_in_their_own_order():
    stages = list(STAGES["sample"].values())
    assert [stage.name for stage in chosen(stages, "search_glue-*,build_corpus", None)] == [
        "build_corpus",
        "search_glue-teacher",
        "search_glue-student",
    ]
    left = chosen(stages, None, "evaluate_glue-*,distill-no-*")
    assert not [stage for stage in left if stage.name.startswith(("evaluate_glue", "distill-no"))]
    assert len(left) == len(stages) - 13


@pytest.mark.parametrize(("only", "skip", "told"), [("distil", None, "no stage"), ("build_corpus", "*", "leave no")])
def test_a_choice_of_nothing_is_one_line(only, skip, told, capfd):
    given = [*(["--only", only] if only else []), *(["--skip", skip] if skip else [])]
    assert run_reproduction.main(given) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line


@pytest.mark.slow
def test_stages_run_in_one_session_and_are_skipped_when_they_are_complete(tmp_path, monkeypatch, capfd, local_ray):
    for name in ("cola", "sst2", "rte"):
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], rows=counts))
    monkeypatch.chdir(tmp_path)
    given = ["--glue", write_glue(tmp_path / "glue"), "--only", "write_glue_text,build_corpus,encode_corpus"]
    given += ["encode_corpus.dupe_factor=1", "build_corpus.decontamination.ngram_words=5"]
    texts = [f"linguists wrote sentence number {row}" for row in range(6)]
    write_lines(tmp_path / "glue/CoLA/train.tsv", [f"gj04\t1\t\t{text}" for text in texts])
    write_lines(tmp_path / "glue/CoLA/dev.tsv", [f"gj04\t1\t\t{texts[0]}"] * 7)  # and so it leaves the corpus
    write_lines(tmp_path / "glue/SST-2/train.tsv", ["sentence\tlabel", *(f"{text}\t1" for text in texts)])
    rows = [f"{row}\t{text}\t{text} indeed\tentailment" for row, text in enumerate(texts)]
    write_lines(tmp_path / "glue/RTE/train.tsv", ["index\tsentence1\tsentence2\tlabel", *rows])
    assert run_reproduction.main(given) == 0
    first = capfd.readouterr().out
    assert "6 of 6 texts of cola, 6 of 6 texts of sst2, 6 of 12 texts of rte" in first
    counts = json.loads((tmp_path / "runs/reproduction/corpus/manifest.json").read_text())["content"]["counts"]
    assert counts["sources"]["1_glue"]["contaminated"] == {"CoLA": 3}
    assert run_reproduction.main(given) == 0
    assert capfd.readouterr().out.count("skipped)") == 3
