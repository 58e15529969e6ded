import pytest
import torch

from tests.distilray.finetuning.tiny_tasks import write_trainable_model
from tests.distilray.tiny_line import write_shards, write_teacher, write_tokenizer


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tiny models are faster without threads, most of all on a machine that does something else too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory, tokenizer_dir):
    return write_teacher(tmp_path_factory.mktemp("teacher"), tokenizer_dir)


@pytest.fixture(scope="session")
def shards_dir(tmp_path_factory, tokenizer_dir):
    return write_shards(tmp_path_factory.mktemp("run") / "shards", tokenizer_dir)


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory):
    return write_trainable_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def distilbert_dir(tmp_path_factory):
    return write_trainable_model(tmp_path_factory.mktemp("distilbert"), "distilbert")
