"""Files and folders without permission are reported in one line that names them."""

import pytest

from jobs import train_tokenizer
from tests.distilray.permissions import forbidden
from tests.jobs.recipe_inputs import CHECKOUT
from tests.jobs.recipe_plans import run_recipe


@pytest.mark.parametrize(
    ("recipe", "file"),
    [
        ("distill/quickstart", "teacher/config.json"),
        ("distill/quickstart", "teacher"),
        ("distill/quickstart", "shards/manifest.json"),
        ("distill/quickstart", "shards"),
        ("train_tokenizer/quickstart", "corpus/manifest.json"),
        ("encode_corpus/quickstart", "teacher/tokenizer.json"),
        ("evaluate_bias/card", "bias/dev.json"),
        ("evaluate_bias/card", "teacher/model.safetensors"),
        ("evaluate_bias/card", "teacher/tokenizer.json"),
    ],
)
def test_an_input_without_read_permission_is_reported(inputs, tmp_path, error_line, recipe, file):
    # A dry run does not read the weights.
    for arguments in [[]] if file.endswith("safetensors") else [[], ["--dry-run"]]:
        with forbidden(inputs / file):
            code = run_recipe(CHECKOUT / f"jobs/recipes/{recipe}.yaml", inputs, tmp_path / "run", *arguments)
        line = error_line(code)
        assert f"{inputs / file}" in line
        assert "ermission denied" in line


@pytest.mark.parametrize("target", ["recipe.yaml", "run", ""])
def test_a_recipe_or_run_folder_without_permission_is_reported(inputs, tmp_path, error_line, target):
    (tmp_path / "run").mkdir()
    (tmp_path / "recipe.yaml").write_text(f"run_dir: {tmp_path}/run/x\nteacher_dir: {inputs}/teacher\n")
    with forbidden(tmp_path / target, 0o500 if target == "run" else 0):
        code = train_tokenizer.main(["--recipe", f"{tmp_path}/recipe.yaml"])
    assert str(tmp_path / target) in error_line(code)
