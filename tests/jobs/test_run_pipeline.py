"""The shipped pipelines, and the command that runs them."""

import json
import re
import shutil
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
from tests.golden.ray_in_process import ray_in_process
from tests.jobs.commands import content_hash, content_of, read_json
from tests.tiny.corpus import sentences_of
from tests.tiny.dumps import page, write_multistream
from tests.tiny.glue import small_rows, write_glue, write_lines

FOLDER = Path(__file__).parents[2] / "jobs" / "pipelines"
PIPELINES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
REPRODUCTIONS = ["reproduction", "reproduction-base"]
QUICKSTART = str(FOLDER / "quickstart.yaml")
ABLATIONS = ["no-cosine", "no-kl", "no-mlm", "random-init"]
# Section of the recipe in which each variant differs from the student.
DIFFERENCES = {
    **dict.fromkeys(("no-kl", "no-cosine", "no-mlm", "layer-wise"), "losses"),
    "random-init": "student",
    "lower-layers": "student",
    "longer": "max_steps",
}


def stages_of(pipeline, *arguments):
    file = str(FOLDER / f"{pipeline}.yaml")
    required = ["text=my-texts"] if pipeline.startswith("mine") else []
    stages = load_pipeline(file, [*required, *arguments], STAGES, recipes=run_pipeline.RECIPES).stages
    return {stage.name: stage for stage in stages}


@pytest.fixture
def best(tmp_path):
    """A recipe like the output of a search."""
    settings = {"learning_rate": 1e-4, "epochs": 2, "max_train_examples": 3000}
    values = {"run_dir": "x", "model_dir": "x", "glue_dir": "data/glue", "tasks": ["cola", "sst2", "rte"]}
    values["per_task"] = dict.fromkeys(GLUE_TASKS, settings)
    (tmp_path / "best.yaml").write_text(json.dumps(values))
    return str(tmp_path / "best.yaml")


def config_of(stage, best):
    """Return the config of a stage, with `best` in place of the recipe that a search writes."""
    return (replace(stage, recipe=best) if stage.recipe_is_generated else stage).config()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_stages_of_a_pipeline_write_different_folders_inside_that_of_the_command(pipeline):
    stages = stages_of(pipeline, "folder=/mnt/elsewhere").values()
    assert len({stage.run_dir for stage in stages}) == len(stages)
    assert all(stage.run_dir.startswith("/mnt/elsewhere/") for stage in stages)


@pytest.mark.parametrize("pipeline", ["quickstart", "glue-demo", *REPRODUCTIONS])
def test_no_stage_uses_the_default_folder_if_the_command_names_another(pipeline, best):
    default = stages_of(pipeline)["build_corpus"].run_dir.rpartition("/")[0]
    for stage in stages_of(pipeline, "folder=/mnt/elsewhere").values():
        assert f'"{default}/' not in config_of(stage, best).model_dump_json(), stage.name


def test_the_quickstart_uses_the_folders_of_its_recipes():
    for stage in stages_of("quickstart").values():
        assert stage.config() == load_recipe(stage.recipe, [], stage.config_class)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
def test_a_stage_reads_folders_of_earlier_stages_and_the_report_reads_all_of_them_once(pipeline, best):
    stages, written = stages_of(pipeline), set()
    for name, stage in stages.items():
        config = config_of(stage, best)
        assert config.run_dir == stage.run_dir
        if stage.recipe_is_generated:
            assert str(Path(stage.recipe).parent) in written
        read = set(re.findall(r"runs/reproduction(?:-base)?/[a-z-]+", config.model_dump_json())) - {stage.run_dir}
        assert read <= written, name
        written.add(stage.run_dir)
    report = config_of(stages["write_report"], best)
    assert sorted([*report.run_paths, *report.optional_paths]) == sorted(written - {report.run_dir})


def test_fine_tuning_uses_the_best_learning_rate_and_more_data_than_the_search(best):
    config = config_of(stages_of("reproduction")["evaluate_glue-student"], best)
    cola, sst2 = config.task_config("cola"), config.task_config("sst2")
    assert (cola.learning_rate, cola.max_train_examples, cola.epochs) == (1e-4, None, 3)
    assert sst2.max_train_examples == 6000


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
@pytest.mark.parametrize("name", ["evaluate_glue-student", "evaluate_glue-teacher"])
def test_both_models_of_the_claim_are_fine_tuned_with_at_least_three_seeds(pipeline, name, best):
    config = config_of(stages_of(pipeline)[name], best)
    assert all(len(config.task_config(task).seeds) >= 3 for task in config.tasks)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
@pytest.mark.parametrize("name", sorted(DIFFERENCES))
def test_a_variant_differs_from_the_student_in_one_section(pipeline, name):
    stages = stages_of(pipeline)
    student, variant = (stages[f"distill-{each}"].config().identity_values() for each in ("student", name))
    assert [key for key in variant if variant[key] != student[key]] == [DIFFERENCES[name]]


@pytest.mark.parametrize(
    ("pipeline", "full", "prefix"), [("ablation", "full", ""), ("reproduction", "distill-student", "distill-")]
)
def test_the_ablations_are_those_of_the_paper(pipeline, full, prefix):
    stages = stages_of(pipeline)
    base, changes = stages[full].config().identity_values(), set()
    for name in ABLATIONS:
        for section, values in stages[f"{prefix}{name}"].config().identity_values().items():
            if values != base[section]:
                changes |= {(f"{section}.{key}", value) for key, value in values.items() if value != base[section][key]}
    assert changes == set(PAPER)


@pytest.mark.parametrize("pipeline", REPRODUCTIONS)
def test_every_stage_that_reads_glue_uses_the_variable(pipeline):
    texts = [json.dumps(stage.known_values()) for stage in stages_of(pipeline, "glue=/mnt/glue").values()]
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
def test_a_rejected_command_is_reported_in_one_line(arguments, message, error_line):
    line = error_line(run_pipeline.main(arguments))
    assert line.startswith("run_pipeline: ")
    assert message in line


def test_a_dry_run_of_the_quickstart_prints_one_table_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS")
    assert run_pipeline.main([QUICKSTART, "--dry-run", "distill.max_steps=1000"]) == 0
    output = capfd.readouterr().out.splitlines()
    assert max(map(len, output)) <= 100
    lines = [line for line in output if line.startswith("│")]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert [row[0] for row in rows] == [*stages_of("quickstart"), "all"]
    work = {row[0]: row[2] for row in rows}
    assert (work["train_teacher"], work["distill"]) == ("240 steps", "1,000 steps")
    assert rows[0][4].startswith("about ")
    assert rows[-1][1] == "0 complete, 7 to run"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def in_process(one_thread):
    with ray_in_process():
        yield


@pytest.mark.usefixtures("in_process")
def test_the_stages_of_a_pipeline_run_and_are_skipped_when_they_are_complete(tmp_path, monkeypatch, capfd):
    for name in ("cola", "sst2", "rte"):
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], row_counts=counts))
    monkeypatch.chdir(tmp_path)
    pages = [
        page(
            number, f"Page {number}", " ".join(f"Path {n} leads through forest {number} to a lake." for n in range(20))
        )
        for number in range(1, 31)
    ]
    dump, glue = write_multistream(tmp_path, pages), write_glue(tmp_path / "glue")
    command = [str(FOLDER / "reproduction.yaml"), f"glue={glue}", f"wikipedia={dump.uri}"]
    command += ["--only", "write_glue_text,build_corpus,encode_corpus"]
    command += [
        "encode_corpus.dupe_factor=1",
        "encode_corpus.heldout_fraction=0.2",
        "build_corpus.decontamination.ngram_words=5",
    ]
    texts = [f"linguists wrote sentence number {row}" for row in range(6)]
    write_lines(tmp_path / "glue/CoLA/train.tsv", [f"gj04\t1\t\t{text}" for text in texts])
    write_lines(tmp_path / "glue/CoLA/dev.tsv", [f"gj04\t1\t\t{texts[0]}"] * 7)  # removed from the corpus
    write_lines(tmp_path / "glue/SST-2/train.tsv", ["sentence\tlabel", *(f"{text}\t1" for text in texts)])
    rows = [f"{row}\t{text}\t{text} indeed\tentailment" for row, text in enumerate(texts)]
    write_lines(tmp_path / "glue/RTE/train.tsv", ["index\tsentence1\tsentence2\tlabel", *rows])
    assert run_pipeline.main(command) == 0
    output = capfd.readouterr().out
    assert "6 of 6 texts of cola, 6 of 6 texts of sst2, 6 of 12 texts of rte" in output
    sources = content_of(tmp_path / "runs/reproduction/corpus")["counts"]["sources"]
    assert sources["1_glue"]["contaminated"] == {"CoLA": 3}
    assert run_pipeline.main(command) == 0
    assert capfd.readouterr().out.count("skipped)") == 3


@pytest.mark.usefixtures("in_process")
def test_the_glue_demo_builds_the_same_task_again_if_it_was_removed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(" ".join(map(str.capitalize, document)) for document in sentences_of(80))
    (tmp_path / "text.txt").write_text(text)
    source = {"kind": "text", "name": "own", "path": "text.txt", "document_per": "blank_line"}
    command = [str(FOLDER / "glue-demo.yaml"), "--skip", "search_glue", f"build_corpus.sources=[{json.dumps(source)}]"]
    command.append("build_corpus.filters={min_words: 0, max_list_fraction: 1, max_repeated_fraction: 1}")
    sizes = {"train": 32, "dev": 16, "test": 16, "min_words": 3, "max_words": 12}
    command += [f"build_next_sentence_task.{key}={value}" for key, value in sizes.items()]
    outputs, hashes, task = [], [], tmp_path / "runs/glue-demo/follows"
    for _ in range(2):
        shutil.rmtree(task, ignore_errors=True)
        assert run_pipeline.main(command) == 0
        outputs.append(capfd.readouterr().out)
        hashes.append(content_hash(task))
    assert re.search(r"^build_corpus: kept \d+ of 80 documents", outputs[0], re.M)
    counts = r"^build_next_sentence_task: 32 train, 16 dev, 16 test pairs of [\d,]+ usable ones"
    assert re.search(counts, outputs[0], re.M)
    skipped = [line.partition(":")[0] for line in outputs[1].splitlines() if "skipped" in line]
    assert skipped == ["build_corpus"]
    assert hashes[0] == hashes[1]


@pytest.mark.usefixtures("in_process")
def test_the_ablation_trains_its_students_and_prints_their_scores_beside_those_of_the_paper(
    shards_dir, teacher_dir, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    command = [str(FOLDER / "ablation.yaml"), f"shards={shards_dir}", f"teacher={teacher_dir}"]
    command += ["--only", "full,random-init,write_report"]
    values = ("max_steps=2", "batch_size=8", "scaling.num_workers=1")
    command += [f"{stage}.{value}" for stage in ("full", "random-init") for value in values]
    assert run_pipeline.main(command) == 0
    output = capfd.readouterr().out
    assert "the paper's table 4" in output
    assert "-3.69" in output
    copied, random = (
        read_json(tmp_path / f"runs/ablation/{name}/initialization.json") for name in ("full", "random-init")
    )
    assert set(random.values()) == {"fresh"}
    assert "fresh" not in copied.values()
