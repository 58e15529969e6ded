"""Reading foreign data and models never runs code from them (S5)."""

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
import torch
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from distilray.config.corpus import ParquetSource
from distilray.config.evaluation import FillMaskDataConfig
from distilray.corpus.decontamination import read_texts
from distilray.corpus.sources import parquet_rows
from distilray.errors import InputError
from distilray.evaluation.fill_mask.readers import data_files, read_examples
from distilray.finetuning.hub_files import read_hub_split
from distilray.finetuning.tasks import TASKS
from distilray.inference.tasks.fill_mask import FillMask
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.corpus_reader import read_sentences
from distilray.pretraining_data.shards import Shard
from distilray.training.checkpoint import CheckpointStore
from tests.tiny.models import write_tiny_model

assert ray.data  # registers Ray's extension types, as in a job


class Attack:
    """Object that creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    """File that must not be created; first shows that the attack works."""
    file = tmp_path / "canary"
    pickle.loads(pickle.dumps(Attack(file)))
    file.unlink()
    yield file
    assert not file.exists(), "code from a file was executed"


def pickled_objects(canary):
    """Return a column that Ray's extension type decodes as pickled Python objects."""
    return pa.ExtensionArray.from_storage(
        ArrowPythonObjectType(), pa.array([pickle.dumps(Attack(canary))], pa.large_binary())
    ), {}


def tensor(canary):
    """Return a column whose metadata is a pickle, as in tensor columns of Ray 2.49 to 2.54, which unpickled it."""
    names = {"name": b"ray.data.arrow_tensor_v2", "metadata": pickle.dumps(Attack(canary))}
    metadata = {f"ARROW:extension:{key}": value for key, value in names.items()}
    return pa.array([["a"]], pa.large_list(pa.string())), metadata


def read_corpus_source(file):
    parquet_rows.check_file(ParquetSource(kind="parquet", path=file, name="x"), file)


def read_documents(file):
    return list(read_sentences(file, 0, 1))


def read_fill_mask_data(file):
    data = FillMaskDataConfig(path=file)
    return [list(read_examples(file, data, seed=1)) for file in data_files(data)]


def read_split(file):
    return read_hub_split(str(Path(file).parent), TASKS["sst2"], "train")


def read_evaluation_set(file):
    if list(read_texts(file)) == []:
        raise InputError("no text")


def read_shard(file):
    return Shard.open(file, "a")


@pytest.mark.parametrize("column", [pickled_objects, tensor])
@pytest.mark.parametrize(
    ("read", "name", "others", "message"),
    [
        (read_corpus_source, "text", {}, "extension type"),
        (read_documents, "sentences", {}, None),
        (read_fill_mask_data, "masks", {"texts": ["<mask> is."]}, "extension type"),
        (read_split, "sentence", {"label": [1]}, None),
        (read_evaluation_set, "text", {}, None),
        (read_shard, "input_ids", {}, None),
    ],
)
def test_a_table_with_pickled_objects_is_rejected(tmp_path, canary, column, read, name, others, message):
    values, metadata = column(canary)
    others = {other: pa.array(items) for other, items in others.items()}
    fields = [
        pa.field(name, values.type, metadata=metadata),
        *(pa.field(key, each.type) for key, each in others.items()),
    ]
    table = pa.Table.from_arrays([values, *others.values()], schema=pa.schema(fields))
    file = tmp_path / "train-00000-of-00001.parquet"
    if read is read_shard:
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, file)
    with pytest.raises(InputError, match=message):
        read(str(file))


def test_ray_itself_would_unpickle_the_objects_of_a_file(tmp_path, canary):
    pq.write_table(pa.Table.from_arrays([pickled_objects(canary)[0]], names=["text"]), tmp_path / "a.parquet")
    pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert canary.exists()  # so that the test above can fail
    canary.unlink()


# Models


def load_teacher_without_head(folder):
    return load_masked_lm(folder, fresh_head=True)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


loaders = pytest.mark.parametrize("load", [FillMask.load, load_masked_lm, load_teacher_without_head])


@loaders
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.pt", "model.ckpt", "model.safetensors"])
def test_pickled_weights_are_rejected(folder, canary, name, load):
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Attack(canary)}, folder / name)
    with pytest.raises(InputError, match="safetensors"):
        load(str(folder))


@loaders
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_does_not_run(folder, canary, monkeypatch, name, load):
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')")
    classes = {"AutoConfig": "own.Own", "AutoModelForMaskedLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    config = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    config |= {"model_type": "own", "tokenizer_class": "Own", "auto_map": classes}
    (folder / name).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # confirm every prompt
    with contextlib.suppress(InputError):
        load(str(folder))


@pytest.mark.parametrize(
    "names",
    [
        ("model.pt", "optimizer.bin", "state.pkl", "data_metadata.pkl"),
        ("model.safetensors", "optimizer.safetensors", "state.json"),
    ],
)
def test_a_checkpoint_of_pickles_is_ignored(tmp_path, canary, names):
    folder = tmp_path / "step-0000003"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Attack(canary)))
    assert CheckpointStore(str(tmp_path), keep=2, config_hash="x", notice=lambda line: None).newest() is None
