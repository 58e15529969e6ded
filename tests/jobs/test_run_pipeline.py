"""The pipelines that are shipped, and the command that runs one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from distilray.config.glue import GLUE_TASKS
from distilray.config.pipeline import load_pipeline
from distilray.config.recipe import load_recipe
from distilray.finetuning.tasks import TASKS
from distilray.report.sections.variants import PAPER
from distilray.stages import STAGES
from jobs import run_pipeline
from tests.tiny.glue import small_rows, write_glue, write_lines
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.shards import write_shards

FOLDER = Path(__file__).parents[2] / "jobs" / "pipelines"
PIPELINES = sorted(FOLDER.glob("*.yaml"))
REPRODUCTIONS = ["reproduction", "reproduction-base"]
FOLDERS = re.compile(r"runs/reproduction(?:-base)?/[a-z-]+")
QUICKSTART = str(FOLDER / "quickstart.yaml")
ABLATIONS = ["no-cosine", "no-kl", "no-mlm", "random-init"]
# Sections of the recipe in which a variant differs from the student.
DIFFERENCES = {
    **{name: {"losses"} for name in ("no-kl", "no-cosine", "no-mlm", "layer-wise")},
    "random-init": {"student"},
    "lower-layers": {"student"},
    "longer": {"max_steps"},
}


def stages_of(name, *arguments):
    pipeline = load_pipeline(str(FOLDER / f"{name}.yaml"), arguments, STAGES, recipes=run_pipeline.RECIPES)
    return {stage.name: stage for stage in pipeline.stages}


STAGES_OF = {name: stages_of(name) for name in REPRODUCTIONS}
ALL = [(pipeline, name) for pipeline, stages in STAGES_OF.items() for name in stages]


@pytest.fixture
def best(tmp_path):
    """A recipe as a search writes it."""
    settings = {"learning_rate": 1e-4, "epochs": 2, "max_train_examples": 3000}
    values = {"run_dir": "x", "model_dir": "x", "glue_dir": "data/glue", "tasks": ["cola", "sst2", "rte"]}
    values["per_task"] = {task: dict(settings) for task in GLUE_TASKS}
    (tmp_path / "best.yaml").write_text(json.dumps(values))  # which is YAML
    return str(tmp_path / "best.yaml")


def config_of(pipeline, name, best):
    """The config of a stage; `best` replaces the output of a search."""
    stage = STAGES_OF[pipeline][name]
    return (replace(stage, recipe=best) if stage.recipe_is_generated else stage).config()


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_shipped_pipeline_can_be_read_and_no_two_stages_share_a_folder(file):
    stages = stages_of(file.stem).values()
    assert len({stage.run_dir for stage in stages}) == len(stages)


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_the_runs_of_a_pipeline_are_all_in_the_folder_of_the_command(file):
    folder = "/mnt/elsewhere"
    assert all(stage.run_dir.startswith(f"{folder}/") for stage in stages_of(file.stem, f"folder={folder}").values())


@pytest.mark.parametrize("name", ["quickstart", "glue-demo", *REPRODUCTIONS])
def test_no_stage_reads_the_default_folder_when_the_command_names_another(name, best):
    default = stages_of(name)["build_corpus"].run_dir.rpartition("/")[0]
    for stage in stages_of(name, "folder=/mnt/elsewhere").values():
        config = (replace(stage, recipe=best) if stage.recipe_is_generated else stage).config()
        assert f'"{default}/' not in config.model_dump_json(), stage.name


def test_the_quickstart_reads_and_writes_the_folders_that_its_recipes_name():
    for stage in stages_of("quickstart").values():
        assert stage.config() == load_recipe(stage.recipe, [], stage.config_class)


@pytest.mark.parametrize(("pipeline", "name"), ALL)
def test_a_stage_changes_nothing_in_its_recipe_that_its_job_does_not_know(pipeline, name, best):
    assert config_of(pipeline, name, best).run_dir == STAGES_OF[pipeline][name].run_dir


def test_a_fine_tuning_takes_the_best_rate_and_more_of_the_data_than_the_search(best):
    config = config_of("reproduction", "evaluate_glue-student", best)
    cola, sst2 = config.task_config("cola"), config.task_config("sst2")
    assert (cola.learning_rate, cola.max_train_examples, cola.epochs) == (1e-4, None, 3)
    assert sst2.max_train_examples == 6000


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
@pytest.mark.parametrize("name", ["evaluate_glue-student", "evaluate_glue-teacher"])
def test_the_two_models_of_the_claim_are_fine_tuned_with_three_seeds_or_more(pipeline, name, best):
    config = config_of(pipeline, name, best)
    assert all(len(config.task_config(task).seeds) >= 3 for task in config.tasks)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
@pytest.mark.parametrize("name", sorted(DIFFERENCES))
def test_a_variant_differs_from_the_student_in_one_thing_alone(pipeline, name, best):
    student, variant = (config_of(pipeline, f"distill-{each}", best).identity_values() for each in ("student", name))
    assert {key for key in variant if variant[key] != student[key]} == DIFFERENCES[name]


@pytest.mark.parametrize("pipeline", ["ablation", "reproduction"])
def test_the_ablation_is_that_of_the_paper(pipeline):
    stages, prefix = stages_of(pipeline), "" if pipeline == "ablation" else "distill-"
    full = stages["full" if pipeline == "ablation" else "distill-student"].config().identity_values()
    found = set()
    for name in ABLATIONS:
        for section, values in stages[f"{prefix}{name}"].config().identity_values().items():
            if values != full[section]:
                found |= {(f"{section}.{key}", value) for key, value in values.items() if value != full[section][key]}
    assert found == set(PAPER)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
def test_every_folder_that_a_stage_reads_is_written_by_an_earlier_one(pipeline, best):
    written = set()
    for name, stage in STAGES_OF[pipeline].items():
        config = config_of(pipeline, name, best)
        if stage.recipe_is_generated:
            assert str(Path(stage.recipe).parent) in written
        read = set(FOLDERS.findall(config.model_dump_json())) - {stage.run_dir}
        assert read <= written, name
        written.add(stage.run_dir)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
def test_the_report_reads_all_other_stages_once(pipeline, best):
    config = config_of(pipeline, "write_report", best)
    others = {stage.run_dir for name, stage in STAGES_OF[pipeline].items() if name != "write_report"}
    assert sorted([*config.run_paths, *config.optional_paths]) == sorted(others)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
def test_every_stage_that_reads_glue_takes_it_from_the_variable(pipeline):
    stages = stages_of(pipeline, "glue=/mnt/glue").values()
    texts = [json.dumps(stage.known_values()) for stage in stages]
    assert not [text for text in texts if "data/glue" in text]
    assert sum("/mnt/glue" in text for text in texts) >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such.yaml"], "no/such.yaml: no such"),
        ([QUICKSTART, "floder=x"], "did you mean 'folder'?"),
        ([QUICKSTART, "distil.max_steps=3"], "did you mean 'distill'?"),
        ([QUICKSTART, "distill.max_setps=3"], "stage distill: max_setps: unknown key; did you mean 'max_steps'?"),
        ([QUICKSTART, "--only", "distil"], "'distil' matches no stage"),
        ([QUICKSTART, "--only", "distill", "--skip", "*"], "leave no stage"),
        ([], "required: FILE"),
        ([QUICKSTART, "--olny", "distill"], "unrecognized arguments: --olny"),
        ([QUICKSTART, "folder=/no/such", "--only", "distill"], "stage distill: "),
        ([QUICKSTART, "folder=/no/such", "--only", "distill", "--dry-run"], "stage distill: "),
    ],
)
def test_a_wrong_command_is_reported_in_one_line_and_exit_code_2(arguments, message, capfd):
    assert run_pipeline.main(arguments) == 2
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("run_pipeline: ")
    assert message in line
    assert printed.out == ""


def test_a_dry_run_of_the_quickstart_prints_one_table_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_pipeline.main([QUICKSTART, "--dry-run", "distill.max_steps=1000"]) == 0
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capfd.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert [row[0] for row in rows] == [*stages_of("quickstart"), "all"]
    work = {row[0]: row[2] for row in rows}
    assert (work["train_teacher"], work["distill"]) == ("240 steps", "1,000 steps")
    assert rows[0][4].startswith("about ")
    assert rows[-1][1] == "0 complete, 7 to run"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_stages_run_in_one_session_and_are_skipped_when_they_are_complete(tmp_path, monkeypatch, capfd, local_ray):
    for name in ("cola", "sst2", "rte"):
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], row_counts=counts))
    file = str(FOLDER / "reproduction.yaml")
    monkeypatch.chdir(tmp_path)
    command = [file, f"glue={write_glue(tmp_path / 'glue')}", "--only", "write_glue_text,build_corpus,encode_corpus"]
    command += ["encode_corpus.dupe_factor=1", "build_corpus.decontamination.ngram_words=5"]
    texts = [f"linguists wrote sentence number {row}" for row in range(6)]
    write_lines(tmp_path / "glue/CoLA/train.tsv", [f"gj04\t1\t\t{text}" for text in texts])
    write_lines(tmp_path / "glue/CoLA/dev.tsv", [f"gj04\t1\t\t{texts[0]}"] * 7)  # and so it leaves the corpus
    write_lines(tmp_path / "glue/SST-2/train.tsv", ["sentence\tlabel", *(f"{text}\t1" for text in texts)])
    rows = [f"{row}\t{text}\t{text} indeed\tentailment" for row, text in enumerate(texts)]
    write_lines(tmp_path / "glue/RTE/train.tsv", ["index\tsentence1\tsentence2\tlabel", *rows])
    assert run_pipeline.main(command) == 0
    first = capfd.readouterr().out
    assert "6 of 6 texts of cola, 6 of 6 texts of sst2, 6 of 12 texts of rte" in first
    counts = json.loads((tmp_path / "runs/reproduction/corpus/manifest.json").read_text())["content"]["counts"]
    assert counts["sources"]["1_glue"]["contaminated"] == {"CoLA": 3}
    assert run_pipeline.main(command) == 0
    assert capfd.readouterr().out.count("skipped)") == 3


@pytest.mark.slow
def test_the_ablation_runs_its_students_and_prints_the_table_beside_the_papers(tmp_path, monkeypatch, capfd, local_ray):
    tokenizer_dir = write_tokenizer(tmp_path / "tokenizer")
    shards = write_shards(tmp_path / "shards", tokenizer_dir)
    teacher = write_teacher(tmp_path / "teacher/model", tokenizer_dir)
    file = str(FOLDER / "ablation.yaml")
    monkeypatch.chdir(tmp_path)
    values = ["max_steps=2", "batch_size=8", "scaling.num_workers=1"]
    changes = [f"{stage}.{value}" for stage in ("full", "random-init") for value in values]
    command = [file, f"shards={shards}", f"teacher={teacher}", "--only", "full,random-init,write_report", *changes]
    assert run_pipeline.main(command) == 0
    out = capfd.readouterr().out
    assert "the paper's table 4" in out
    assert "-3.69" in out
    kept, fresh = (
        json.loads((tmp_path / f"runs/ablation/{name}/initialization.json").read_text())
        for name in ("full", "random-init")
    )
    assert set(fresh.values()) == {"fresh"}
    assert "fresh" not in kept.values()
