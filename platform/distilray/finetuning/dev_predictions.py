"""Predictions of a fine-tuned model on the dev sets of a task, as a Parquet file.

The file is sufficient to compute the scores again exactly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilray.config.glue import TaskName
from distilray.finetuning.metrics import predictions
from distilray.finetuning.tasks import FineTuneTask
from distilray.runtime import storage
from distilray.runtime.outputs import read_verified
from distilray.schemas import DEV_PREDICTIONS, check_schema

PREDICTIONS_FOLDER = "predictions"  # in runs of evaluate_glue, and for the winners of search_glue

Array = NDArray[Any]


@dataclass(frozen=True)
class DevPredictions:
    """Labels and predictions by dev set, each of shape (rows,)."""

    labels: Mapping[str, Array]
    predictions: Mapping[str, Array]


def read_seed_predictions(folder: str, task: TaskName, seeds: Iterable[int]) -> list[DevPredictions]:
    """Read the predictions of a task for several seeds. Empty if a file is missing, as in runs of earlier versions.

    Raises:
        InputError: a file differs from the one that its run wrote.
    """
    files = [storage.join(folder, predictions_file(task, seed)) for seed in seeds]
    return [read_dev_predictions(file) for file in files] if all(map(storage.exists, files)) else []


def predictions_file(task: TaskName, seed: int) -> str:
    """Return the path of the file of a task and seed inside its run folder."""
    return f"{PREDICTIONS_FOLDER}/{task}-seed-{seed}.parquet"


def write_dev_predictions(
    uri: str, task: FineTuneTask, outputs: Mapping[str, Array], labels: Mapping[str, Array]
) -> None:
    """Write the predictions of a model.

    Args:
        outputs: (rows, num_outputs) for each dev set.
        labels: (rows,) for each dev set.
    """
    tables = [
        pa.table(
            {
                "split": [split] * len(rows),
                "row": np.arange(len(rows)),
                "label": labels[split].astype(np.float64),
                "prediction": predictions(task, rows).astype(np.float64),
                "outputs": list(rows.astype(np.float32)),
            },
            schema=DEV_PREDICTIONS,
        )
        for split, rows in outputs.items()
    ]
    file = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), file)
    storage.write_bytes(uri, file.getvalue().to_pybytes())


def read_dev_predictions(uri: str) -> DevPredictions:
    """Read the predictions of a model.

    Raises:
        InputError: the file differs from the one that its run wrote.
    """
    table = pq.read_table(pa.BufferReader(read_verified(uri)))
    check_schema(table.schema, DEV_PREDICTIONS, uri)
    splits = np.array(table.column("split").to_pylist())
    columns = {name: table.column(name).to_numpy() for name in ("label", "prediction")}
    return DevPredictions(
        *({split: column[splits == split] for split in dict.fromkeys(splits.tolist())} for column in columns.values())
    )
