from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import Field

from distilray.config.base import Documents, InputDir, JobConfig
from distilray.config.pipeline import load_pipeline
from distilray.errors import InputError


class CorpusConfig(JobConfig):
    words: int = 1
    sections: dict[str, int] = Field(default={})
    names: list[str] = Field(default=[])


class ModelConfig(JobConfig):
    corpus_dir: Documents
    steps: int = 10
    others: list[InputDir] = Field(default=[])


@dataclass
class Row:
    config_class: type[JobConfig]


TABLE = {"corpus": Row(CorpusConfig), "model": Row(ModelConfig)}
PIPELINE = """
variables:
  folder: runs/x
  words: 3
stages:
  corpus:
    recipe: corpus.yaml
    values:
      run_dir: ${folder}/corpus
      words: ${words}
  model:
    values: {run_dir: "${folder}/model", corpus_dir: "${corpus}"}
"""


def load(folder: Path, text: str = PIPELINE, *arguments: str, **options):
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes" / "corpus.yaml").write_text("run_dir: elsewhere\nsections: {a: 1, b: 2}\n")
    (folder / "p.yaml").write_text(text)
    return load_pipeline(str(folder / "p.yaml"), arguments, TABLE, recipes=folder / "recipes", **options)


def configs(folder: Path, text: str = PIPELINE, *arguments: str):
    return {stage.name: stage.config() for stage in load(folder, text, *arguments).stages}


def test_values_are_applied_to_the_recipe_and_references_are_replaced(tmp_path):
    assert configs(tmp_path) == {
        "corpus": CorpusConfig(run_dir="runs/x/corpus", words=3, sections={"a": 1, "b": 2}),
        "model": ModelConfig(run_dir="runs/x/model", corpus_dir="runs/x/corpus"),
    }


def test_values_are_merged_into_the_recipe_next_to_the_pipeline_or_else_into_the_shipped_one(tmp_path):
    text = PIPELINE.replace("words: ${words}", "sections: {b: 5, c: 6}")
    assert configs(tmp_path, text)["corpus"].sections == {"a": 1, "b": 5, "c": 6}
    (tmp_path / "corpus.yaml").write_text("names: [own]\n")
    assert configs(tmp_path)["corpus"].names == ["own"]


@pytest.mark.parametrize(
    ("arguments", "corpus", "model"),
    [
        (["words=4", "corpus.sections={z: 9}"], {"words": 4, "sections": {"z": 9}}, {}),
        (["model.steps=7", "model.corpus_dir=c"], {}, {"steps": 7, "corpus_dir": "c"}),
        (["corpus.run_dir=s3://b/c"], {"run_dir": "s3://b/c"}, {"corpus_dir": "s3://b/c"}),
        (["folder=o"], {"run_dir": "o/corpus"}, {"run_dir": "o/model", "corpus_dir": "o/corpus"}),
    ],
)
def test_arguments_override_values_and_variables_for_all_stages_that_use_them(tmp_path, arguments, corpus, model):
    before, after = configs(tmp_path), configs(tmp_path, PIPELINE, *arguments)
    assert after["corpus"] == before["corpus"].model_copy(update=corpus)
    assert after["model"] == before["model"].model_copy(update=model)


def test_like_copies_an_earlier_stage_and_stages_are_all_earlier_run_folders(tmp_path):
    text = PIPELINE + "  second: {like: model, values: {run_dir: s, others: '${stages}'}}\n"
    assert configs(tmp_path, text)["second"] == ModelConfig(
        run_dir="s", corpus_dir="runs/x/corpus", others=["runs/x/corpus", "runs/x/model"]
    )


def test_extends_applies_a_file_to_another_and_an_empty_stage_removes_one(tmp_path):
    (tmp_path / "base.yaml").write_text(
        PIPELINE.replace("words: 3", "words: {a: 3}").replace("words: $", "sections: $")
    )
    text = """
extends: base.yaml
variables: {corpus: hub-corpus, folder: runs/y}
stages:
  corpus:
  model: {values: {steps: 2}}
"""
    pipeline = load(tmp_path, text)
    assert [stage.config() for stage in pipeline.stages] == [
        ModelConfig(run_dir="runs/y/model", corpus_dir="hub-corpus", steps=2)
    ]
    assert [Path(file).name for file in pipeline.files] == ["p.yaml", "base.yaml"]


def test_a_variable_that_is_a_mapping_is_replaced_by_the_file_that_extends(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "variables: {s: {a: 3}}\nstages: {corpus: {values: {run_dir: r, sections: '${s}'}}}"
    )
    assert configs(tmp_path, "extends: base.yaml\nvariables: {s: {b: 1}}")["corpus"].sections == {"b": 1}


def test_a_recipe_that_an_earlier_stage_writes_is_read_once_it_exists(tmp_path):
    text = PIPELINE + "  late: {stage: corpus, recipe: '${corpus}/best.yaml', values: {run_dir: l}}\n"
    pipeline = load(tmp_path, text, f"folder={tmp_path}", "late.words=8")
    late = pipeline.stages[-1]
    assert (late.recipe_is_generated, late.run_dir) == (True, "l")
    assert pipeline.files[1:] == [str(tmp_path / "recipes" / "corpus.yaml")]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "best.yaml").write_text("sections: {q: 1}")
    assert late.config() == CorpusConfig(run_dir="l", words=8, sections={"q": 1})


def test_the_partial_config_of_a_late_stage_has_its_known_locations(tmp_path):
    text = PIPELINE + "  late: {stage: model, recipe: '${corpus}/x.yaml', values: {run_dir: l, corpus_dir: c}}\n"
    config = load(tmp_path, text).stages[-1].partial_config()
    assert (config.run_dir, config.corpus_dir) == ("l", "c")


@pytest.mark.parametrize(("keeps", "starts"), [(True, "~/"), (False, "/")])
def test_a_home_folder_is_expanded_unless_another_machine_does_it(tmp_path, keeps, starts):
    stages = load(tmp_path, PIPELINE, "folder=~/runs", keep_tilde=keeps).stages
    assert all(stage.config().run_dir.startswith(starts) for stage in stages)


MORE = PIPELINE + "  more: "
LATE = MORE + "{stage: corpus, recipe: '${corpus}/b.yaml'"
CYCLE = "stages: {corpus: {values: {run_dir: '${model}'}}, model: {values: {run_dir: r, corpus_dir: '${corpus}'}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # A pair is a replacement in `PIPELINE`.
        ("variables: {a: 1}", "stages: missing or empty"),
        (("recipe:", "recpie:"), "stages.corpus.recpie: unknown key; did you mean 'recipe'?"),
        (PIPELINE + "sohw: [corpus]\n", "sohw: unknown key; did you mean 'show'?"),
        (("  corpus:\n", "  corpsu:\n"), "stage corpsu: 'corpsu' is not a stage; did you mean"),
        (MORE + "{stage: modle}", "stage more: 'modle' is not a stage; did you mean 'model'?"),
        (MORE, "stage more: empty"),
        (
            ("${folder}/corpus", "${model}/corpus"),
            "stage corpus: values: run_dir: ${model} is a stage that does not run",
        ),
        (("${folder}/corpus", "${corpus}/x"), "stage corpus: values: run_dir: ${corpus} is a stage"),
        (CYCLE, "stage corpus: values: run_dir: ${model} is a stage that does not run before"),
        (("${corpus}", "${copus}"), "corpus_dir: ${copus} is not a variable or a stage; did you mean 'corpus'?"),
        (("words: 3", "words: ${corpus}"), "variable words: ${corpus} is not a variable"),
        (("words: 3", "words:"), "variable 'words' has no value; add words=... to the command"),
        (("words: ${words}", "wrods: 2"), "stage corpus: wrods: unknown key; did you mean 'words'?"),
        (("words: 3", "words: many"), "stage corpus: words: Input should be a valid integer"),
        ((', corpus_dir: "${corpus}"', ""), "model: corpus_dir: missing; add it to the recipe or model.corpus_dir="),
        (("corpus.yaml", "corpse.yaml"), "stage corpus: recipe: corpse.yaml does not exist in"),
        (("recipe: corpus.yaml", "like: model"), "stage corpus: like: 'model' is not an earlier stage"),
        (MORE + "{like: model}", "stage more: run_dir: runs/x/model belongs to an earlier"),
        *[
            (PIPELINE + f"  {name}: {{like: model}}", f"stage {name}: choose another name")
            for name in ("words", "stages", "a.b")
        ],
        (PIPELINE + "show: [modle]\n", "show: 'modle' is not a stage; did you mean 'model'?"),
        (PIPELINE + "  model: {}\n", "duplicate key 'model'"),
        ("extends: p.yaml", "or a file that extends itself"),
        ("extends: none.yaml", "none.yaml: no such"),
        (LATE + "}", "stage more: run_dir: missing; add it to values"),
        (LATE + ", values: {run_dir: l, wrods: 1}}", "stage more: wrods: unknown key"),
        (LATE + ", values: {run_dir: l, words: many}}", "stage more: words: Input should be a valid integer"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) and not value.startswith("\n") else "",
)
def test_a_wrong_file_is_an_error_with_the_file_the_stage_and_the_key(tmp_path, text, message):
    if isinstance(text, tuple):
        assert text[0] in PIPELINE
        text = PIPELINE.replace(*text)
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("floder=x", "has no variable 'floder'; did you mean 'folder'?"),
        ("steps=3", "has no variable 'steps'; known here: folder, words"),
        ("modle.steps=3", "'modle.steps=3': no such stage: write NAME=value for a variable, or STAGE.key=value"),
        ("words", "'words': no such stage: write NAME=value"),
        ("words={", "override 'words={': "),
        ("folder=", "variable 'folder' has no value"),
        ("model.setps=3", "stage model: setps: unknown key; did you mean 'steps'?"),
        ("model.steps=few", "stage model: steps: Input should be a valid integer"),
        ("model.steps", "override 'steps': write it as key=value"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(tmp_path, argument, message):
    with pytest.raises(InputError) as caught:
        load(tmp_path, PIPELINE, argument)
    assert message in str(caught.value)


SELECTABLE = f"""{PIPELINE}
  corpus-2: {{like: corpus, values: {{run_dir: c}}}}
  model-2: {{like: model, values: {{run_dir: m}}}}
show: [corpus, model]
"""


@pytest.mark.parametrize(
    ("only", "skip", "stages", "show"),
    [
        (None, None, ["corpus", "model", "corpus-2", "model-2"], ["corpus", "model"]),
        ("model*,corpus", None, ["corpus", "model", "model-2"], ["corpus", "model"]),
        (None, "corpus*", ["model", "model-2"], ["model"]),
        ("*-2", "model*", ["corpus-2"], ["corpus-2"]),
    ],
)
def test_stages_are_selected_by_patterns_in_their_own_order(tmp_path, only, skip, stages, show):
    pipeline = load(tmp_path, SELECTABLE).select(only, skip)
    assert [stage.name for stage in pipeline.stages] == stages
    assert list(pipeline.show) == show


@pytest.mark.parametrize(
    ("only", "skip", "message"),
    [
        ("modle", None, "'modle' matches no stage"),
        (None, "modle", "'modle' matches no stage"),
        ("model", "*", "leave no stage"),
    ],
)
def test_a_selection_of_nothing_is_an_error(tmp_path, only, skip, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path).select(only, skip)
