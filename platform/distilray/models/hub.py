"""Uploads to the Hugging Face Hub. Only model files are uploaded, and error messages never contain the token."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub import errors as hub_errors

from distilray.errors import InputError
from distilray.runtime import storage

PUSHED_SUFFIXES = (".safetensors", ".onnx", ".json")
README_FILE = "README.md"


def check_push(repo_id: str) -> None:
    """Check that an upload is possible, without contacting the hub.

    Raises:
        InputError: offline mode is enabled, or no token is configured.
    """
    if is_offline_mode():
        raise InputError(f"push.repo_id={repo_id}: HF_HUB_OFFLINE is set; unset it, or remove push.repo_id")
    if get_token() is None:
        raise InputError(f"push.repo_id={repo_id}: no token; set HF_TOKEN or run `hf auth login`")


def push(files: Mapping[str, str], *, repo_id: str, private: bool, message: str) -> str:
    """Upload files in one commit, and return the URL of the repository, which is created if it does not exist.

    Args:
        files: path in the repository -> URI.
        private: visibility of a new repository; that of an existing one is not changed.
        message: commit message.

    Raises:
        InputError: see `check_push`; also if the hub cannot be reached or refuses the upload.
    """
    check_push(repo_id)
    foreign = [name for name in files if not name.endswith(PUSHED_SUFFIXES) and name != README_FILE]
    assert not foreign, f"not model files: {foreign}"
    api = HfApi()
    with tempfile.TemporaryDirectory() as staged:
        for name, uri in files.items():
            storage.write_bytes(str(Path(staged) / name), storage.read_bytes(uri))
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=staged, allow_patterns=sorted(files), commit_message=message)
        except hub_errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", "an error")
            raise InputError(f"push.repo_id={repo_id}: the hub returned {status}; check the token") from None
        except Exception as error:  # from the HTTP library; its message may contain the request
            raise InputError(
                f"push.repo_id={repo_id}: the hub cannot be reached ({type(error).__name__}); run the job again later"
            ) from None
    return str(address)
