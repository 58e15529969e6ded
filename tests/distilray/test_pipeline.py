import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from distilray import pipeline as pipelines
from distilray.config.base import InputDir, InputFile, JobConfig
from distilray.config.pipeline import load_pipeline
from distilray.errors import InputError
from distilray.pipeline import plan_rows, plan_table, read_command, run_pipeline, run_pipeline_command
from distilray.runtime import storage
from distilray.runtime.job import Job, Outcome, Quantity
from distilray.runtime.run_folder import read_manifest


class TextConfig(JobConfig):
    text_path: InputFile
    times: int = 1


class CopyConfig(JobConfig):
    text_dir: InputDir
    max_steps: int | None = None


def _plan_text(config: TextConfig) -> dict[str, object]:
    size = Path(config.text_path).stat().st_size * config.times
    return {"rows": Quantity(f"{size} in all", 7, "rows"), "bytes": Quantity("", size * 1e6, "bytes")}


def _plan_copy(config: CopyConfig) -> dict[str, object]:
    return {"time": Quantity("", 90, "s"), "steps": Quantity("", config.max_steps or 1, "steps")}


def row(job: Job, recipes: str | None = None) -> SimpleNamespace:
    """Return the row of the stage table for a job."""
    return SimpleNamespace(config_class=job.config_class, job=lambda: job, recipes=recipes)


class Stages(dict):
    """Two stages that write text; `ran` names the folders of runs in their order."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        text = Job("text", TextConfig, _plan_text, self._run, show=lambda folder: print("shown", folder.uri))
        super().__init__(text=row(text), copy=row(Job("copy", CopyConfig, _plan_copy, self._run)))

    def _run(self, config, folder) -> Outcome:
        self.ran.append(Path(folder.uri).name)
        source = config.text_path if isinstance(config, TextConfig) else f"{config.text_dir}/text"
        storage.write_bytes(folder.path("text"), storage.read_bytes(source) * getattr(config, "times", 1))
        return Outcome("3 rows, and more", {}, folder.describe_outputs(["text"]))


STAGES = {
    "text": {"values": {"run_dir": "${folder}/text", "text_path": "${folder}/source"}},
    "copy": {"values": {"run_dir": "${folder}/copy", "text_dir": "${text}", "max_steps": 5}},
    "other": {"stage": "text", "values": {"run_dir": "${folder}/other", "text_path": "${folder}/source", "times": 2}},
    "last": {"like": "copy", "values": {"run_dir": "${folder}/last", "text_dir": "${copy}"}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").write_text("abc")
    return tmp_path


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    table = Stages()
    monkeypatch.setattr(pipelines, "STAGES", table)
    monkeypatch.setattr(pipelines, "_open_session", lambda session: table.ran.append("session"))
    return table


def write_pipeline(folder: Path, stages: dict[str, object], **values: object) -> str:
    file = folder / "p.yaml"
    file.write_text(yaml.safe_dump({"variables": {"folder": str(folder)}, "stages": stages, **values}, sort_keys=False))
    return str(file)


def load(stages: Stages, folder: Path, *arguments: str, only: str | None = None, show: tuple[str, ...] = ()):
    file = write_pipeline(folder, STAGES, show=list(show))
    return load_pipeline(file, arguments, stages, recipes=folder).select(only, None)


def run(stages: Stages, folder: Path, *arguments: str, **options) -> list[str]:
    """Return the folders of the runs that were executed, in their order."""
    stages.ran.clear()
    run_pipeline(load(stages, folder, *arguments, **options))
    return [name for name in stages.ran if name != "session"]


def rows_of(stages: Stages, folder: Path, *arguments: str, **options) -> dict[str, list[str]]:
    table = plan_table(plan_rows(load(stages, folder, *arguments, **options)))
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return {row[0]: [str(cell) for cell in row[1:]] for row in rows}


def test_stages_run_in_their_order_and_complete_ones_are_skipped(stages, folder, capsys):
    assert run(stages, folder) == ["text", "copy", "other", "last"]
    capsys.readouterr()
    assert run(stages, folder) == []
    assert capsys.readouterr().out.count("skipped)") == 4


def test_a_session_is_opened_when_the_first_stage_has_to_run(stages, folder):
    run(stages, folder, only="text")
    run(stages, folder)
    assert stages.ran[:2] == ["session", "copy"]
    run(stages, folder)
    assert stages.ran == []


def test_after_a_change_only_that_stage_and_those_that_read_its_result_run_again(stages, folder, capsys):
    run(stages, folder)
    assert run(stages, folder, "other.times=3") == ["other"]
    assert run(stages, folder, "other.times=3", "copy.max_steps=6") == ["copy", "last"]
    assert f"copy: max_steps changed; the earlier run is now {folder}/copy.1" in capsys.readouterr().out
    (folder / "source").write_text("changed")
    assert run(stages, folder) == ["text", "copy", "other", "last"]
    (folder / "text" / "manifest.json").unlink()  # its result will be the same again
    assert run(stages, folder) == ["text"]


def test_no_earlier_run_is_lost(stages, folder):
    for times in (1, 2, 3):
        run(stages, folder, f"text.times={times}", only="text")
    texts = [(folder / name / "text").read_text() for name in ("text.1", "text.2", "text")]
    assert texts == ["abc", "abcabc", "abcabcabc"]


def test_a_changed_stage_whose_inputs_cannot_be_used_preserves_the_earlier_run(stages, folder):
    run(stages, folder, only="text")
    with pytest.raises(InputError, match=r"^stage text: "):
        run(stages, folder, "text.text_path=/no/such/file", only="text")
    assert (folder / "text" / "manifest.json").is_file()
    assert not (folder / "text.1").exists()


def test_a_folder_of_another_job_is_refused(stages, folder):
    run(stages, folder, only="text")
    (folder / "text").rename(folder / "copy")
    with pytest.raises(InputError, match=r"stage copy: .*contains a run of text, not of copy"):
        run(stages, folder, f"copy.text_dir={folder}", only="copy")


@pytest.mark.parametrize(
    ("show", "only", "shown"),
    [((), None, []), ((), "text,other", ["other"]), (("text", "other"), None, ["text", "other"])],
)
def test_the_results_named_in_the_pipeline_are_printed_last(stages, folder, capsys, show, only, shown):
    run(stages, folder, show=show, only=only)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "shown" in line] == [f"shown {folder}/{name}" for name in shown]
    assert not shown or ("shown" in lines[-2] and "stages complete in" in lines[-1])


def test_a_dry_run_starts_nothing_and_plans_stages_whose_inputs_do_not_exist(stages, folder):
    files = {"source", "p.yaml"}
    assert rows_of(stages, folder) == {
        "text": ["to run", "7 rows", "3.0 MB", ""],
        "copy": ["to run", "5 steps", "", ""],
        "other": ["to run", "7 rows", "6.0 MB", ""],
        "last": ["to run", "5 steps", "", ""],
        "all": ["0 complete, 4 to run", "", "at least 9.0 MB", "unknown"],
    }
    assert stages.ran == []
    assert {file.name for file in folder.iterdir()} == files


def test_a_dry_run_shows_complete_and_changed_stages(stages, folder):
    run(stages, folder)
    rows = rows_of(stages, folder, "copy.max_steps=1200")
    assert rows["text"][:3] == ["complete", "3 rows", "0.0 MB"]
    assert rows["text"][3].startswith("took ")
    assert rows["copy"] == ["to run again: max_steps changed", "1,200 steps", "", "about 1 min 30 s"]
    assert rows["other"][0] == "complete"
    assert rows["last"][:2] == ["to run again if its inputs change", "5 steps"]
    assert rows["last"][3].startswith("about ")
    assert rows["all"][:3] == ["2 complete, 2 to run", "", "at least 0.0 MB"]


def test_a_dry_run_shows_that_an_interrupted_stage_resumes(stages, folder):
    run(stages, folder, only="text")
    (folder / "text" / "manifest.json").unlink()
    assert rows_of(stages, folder, only="text")["text"][0] == "to resume"


def test_a_missing_input_that_no_stage_writes_is_an_error_of_a_dry_run(stages, folder):
    with pytest.raises(InputError, match=r"^stage copy: .*text"):
        rows_of(stages, folder, only="copy")


def test_a_stage_with_a_recipe_of_an_earlier_stage_is_planned_before_it_exists(stages, folder):
    late = {"stage": "copy", "recipe": "${text}/text", "values": {"run_dir": "${folder}/late", "max_steps": 4}}
    (folder / "source").write_text(f"text_dir: {folder}/text\n")
    file = write_pipeline(folder, {"text": STAGES["text"], "late": late})
    pipeline = read_command([file], None, recipes=folder)[0]
    assert plan_rows(pipeline)["late"].work == "4 steps"
    run_pipeline(pipeline)
    assert (folder / "late" / "text").read_text() == (folder / "source").read_text()


def recipes_of_text(config: TextConfig) -> dict[str, tuple[dict[str, object], float]]:
    """Return the recipe for a later stage that a run of `text` would write, and the seconds that it expects."""
    return {"text": ({"text_dir": config.run_dir, "max_steps": 9}, 150.0)}


def test_a_dry_run_plans_with_the_recipes_that_a_stage_announces(stages, folder, capsys):
    late = {"stage": "copy", "recipe": "${text}/text", "values": {"run_dir": "${folder}/late"}}
    stages["text"] = row(stages["text"].job(), recipes=f"{__name__}:recipes_of_text")
    file = write_pipeline(folder, {"text": STAGES["text"], "late": late})
    run_pipeline_command([file, "--dry-run"], None, recipes=folder)
    output = capsys.readouterr().out
    assert "9 steps" in output
    assert "2 min 30 s" in output
    assert "in all" in output  # the plan of the stage that chooses, below the table
    run_pipeline_command([file, "--dry-run", "late.max_steps=3"], None, recipes=folder)
    assert "3 steps" in capsys.readouterr().out


def test_options_of_the_command_may_be_between_its_arguments(stages, folder):
    file = write_pipeline(folder, STAGES)
    command = ["--only", "text,copy", file, "--dry-run", "text.times=4", "--skip", "copy"]
    pipeline, args = read_command(command, None, recipes=folder)
    assert ([stage.name for stage in pipeline.stages], args.dry_run) == (["text"], True)
    assert pipeline.stages[0].config().times == 4


def test_the_json_of_a_run_contains_the_manifests_of_all_stages(stages, folder, capsys):
    run_pipeline_command([write_pipeline(folder, STAGES), "--json"], None, recipes=folder)
    values = json.loads(capsys.readouterr().out)
    runs = {stage["stage"]: (stage["job"], stage["run_dir"], stage["manifest"]) for stage in values["stages"]}
    jobs = {"text": "text", "copy": "copy", "other": "text", "last": "copy"}
    assert runs == {name: (job, f"{folder}/{name}", read_manifest(f"{folder}/{name}")) for name, job in jobs.items()}


def test_the_json_of_a_dry_run_contains_the_rows_of_the_table(stages, folder, capsys):
    run_pipeline_command([write_pipeline(folder, STAGES), "--json", "--dry-run"], None, recipes=folder)
    values = json.loads(capsys.readouterr().out)
    assert values["stages"][0] == {
        "stage": "text",
        "job": "text",
        "run_dir": f"{folder}/text",
        "state": "to run",
        "work": "7 rows",
        "bytes": 3e6,
        "seconds": None,
    }
    assert [stage["work"] for stage in values["stages"]] == ["7 rows", "5 steps", "7 rows", "5 steps"]


@pytest.mark.parametrize(
    ("location", "is_below"),
    [("runs/corpus", True), ("runs/corpus/documents", True), ("runs/corpus2", False), ("runs", False)],
)
def test_a_location_is_below_a_folder_or_beside_it(location: str, is_below: bool) -> None:
    assert pipelines._is_below(location, ["runs/other", "runs/corpus"]) is is_below
