from pathlib import Path

import pytest

from tests.tiny.search import write_model, write_next_sentence_task


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model and the task `follows`."""
    folder = tmp_path_factory.mktemp("search")
    write_model(folder)
    write_next_sentence_task(folder / "glue")
    return folder
