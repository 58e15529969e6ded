import json
from pathlib import Path

import pytest

from distilray.distillation.ablation import PAPER, VARIANTS, ablation_table
from distilray.errors import InputError
from jobs import run_ablation
from tests.distilray.tiny_line import write_shards, write_teacher, write_tokenizer

SCORES = {
    "full": {"hit@1": 0.5, "agreement": 0.6, "mlm": 2.0},
    "no-kl": {"hit@1": 0.4, "agreement": 0.45, "mlm": 3.0},
}


def cells(scores):
    table = ablation_table(scores)
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


def test_every_variant_has_a_recipe_and_every_recipe_is_a_variant():
    recipes = {file.stem for file in Path("jobs/recipes/run_ablation").glob("*.yaml")}
    assert recipes == set(VARIANTS) == {"full", *PAPER}


def test_the_table_shows_changes_against_the_full_loss_beside_the_papers():
    full, without = cells(SCORES)
    assert full == ("full", "50.0", "", "60.0", "", "7.4", "")
    assert without == ("no-kl", "40.0", "-10.0", "45.0", "-15.0", "20.1", "-2.96")


def test_without_the_full_loss_the_table_shows_no_changes():
    ((name, _, change, _, other, _, _),) = cells({"no-kl": SCORES["no-kl"]})
    assert (name, change, other) == ("no-kl", "", "")


def test_a_run_without_held_out_scores_is_one_line(tmp_path):
    with pytest.raises(InputError, match="heldout_fraction"):
        run_ablation.last_scores(str(tmp_path))


def test_an_unknown_variant_is_one_line_that_names_those_there_are(capfd):
    assert run_ablation.main(["--only", "full,no-such"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "random-init" in line


@pytest.mark.slow
def test_one_command_runs_the_set_and_prints_the_table(tmp_path, monkeypatch, capfd, local_ray):
    tokenizer_dir = write_tokenizer(tmp_path / "tokenizer")
    shards = write_shards(tmp_path / "shards", tokenizer_dir)
    teacher = write_teacher(tmp_path / "teacher/model", tokenizer_dir)
    monkeypatch.chdir(tmp_path)
    values = [f"shards_dir={shards}", f"teacher_dir={teacher}", "max_steps=2", "batch_size=8", "scaling.num_workers=1"]
    assert run_ablation.main(["--only", "full,random-init", *values]) == 0
    out = capfd.readouterr().out
    assert "GLUE in the paper" in out
    assert "-3.69" in out
    kept, fresh = (
        json.loads((tmp_path / f"runs/ablation/{name}/initialisation.json").read_text())
        for name in ("full", "random-init")
    )
    assert set(fresh.values()) == {"fresh"}
    assert "fresh" not in kept.values()
