import json

import pytest

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.errors import InputError
from distilray.evaluation.fill_mask.evaluate_fill_mask import plan_fill_mask
from tests.tiny.models import write_tiny_model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: not a model config"),
        ('{"model_type": "gpt2"}', "model type gpt2 is not supported; use bert or distilbert"),
    ],
)
def test_a_model_that_cannot_be_scored_is_refused_by_the_plan(tmp_path, config, message):
    student_dir = write_tiny_model(tmp_path, "distilbert")
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "data.jsonl").write_text(json.dumps({"texts": "the <mask> sat", "masks": ["cat"]}))
    data = {"path": str(tmp_path / "data.jsonl")}
    with pytest.raises(InputError, match=message):
        plan_fill_mask(EvaluateFillMaskConfig(run_dir=str(tmp_path / "run"), student_dir=student_dir, data=data))
