"""Fine-tuning of a classifier on a task, on one worker or several; it goes on where it was interrupted."""

from distilray.evaluation.glue.training.loop import fine_tune
from distilray.evaluation.glue.training.objective import predict
from distilray.evaluation.glue.training.progress import Evaluation, FineTuned, read_evaluations
from distilray.evaluation.glue.training.workers import Workers

__all__ = ["Evaluation", "FineTuned", "Workers", "fine_tune", "predict", "read_evaluations"]
