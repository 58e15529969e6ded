"""Uploads to the Hugging Face hub: only what a model consists of, only when asked to, never the token in any text."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub import errors as hub_errors

from distilray.errors import InputError
from distilray.runtime import storage

# What is uploaded, whatever else lies in a folder.
PUSHED_SUFFIXES = (".safetensors", ".onnx", ".json")
README_FILE = "README.md"


def check_push(repo_id: str) -> None:
    """Looks whether an upload may be tried; asks the hub nothing.

    Raises:
        InputError: offline, or no token in the environment.
    """
    if is_offline_mode():
        raise InputError(f"push.repo_id={repo_id}: HF_HUB_OFFLINE is set; unset it, or leave push.repo_id out")
    if get_token() is None:
        raise InputError(f"push.repo_id={repo_id}: no token; set HF_TOKEN or run `hf auth login`")


def push(files: Mapping[str, str], *, repo_id: str, private: bool, message: str) -> str:
    """Uploads files as one commit and returns the address of the repository, which is made if need be.

    Args:
        files: URIs by their path in the repository.
        private: of a repository that is made; one that exists stays as it is.
        message: of the commit.

    Raises:
        InputError: as `check_push`; or the hub cannot be reached, or does not take it.
    """
    check_push(repo_id)
    foreign = [name for name in files if not name.endswith(PUSHED_SUFFIXES) and name != README_FILE]
    assert not foreign, f"not for a hub: {foreign}"
    api = HfApi()
    with tempfile.TemporaryDirectory() as staged:
        for name, uri in files.items():
            storage.write_bytes(str(Path(staged) / name), storage.read_bytes(uri))
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=staged, allow_patterns=sorted(files), commit_message=message)
        except hub_errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", "an error")
            raise InputError(f"push.repo_id={repo_id}: the hub answers {status}; may the token write there?") from None
        except Exception as error:  # of the HTTP library; its text may hold what was sent
            raise InputError(
                f"push.repo_id={repo_id}: the hub cannot be reached ({type(error).__name__}); run the job again later"
            ) from None
    return str(address)
