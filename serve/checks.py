"""Startup checks of the service, and its address."""

import os
import socket

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.model_folder import check_model_folder
from serve.auth import keys_from_environment
from serve.routes import routes_for_task


def check_application(config: FillMaskAppConfig) -> None:
    """Check the task, the model folders and the API keys before any process starts.

    Raises:
        InputError: the task is unknown, a folder does not contain a model, or an API key is invalid.
    """
    routes_for_task(config.task)
    for folder in (config.model_dir, *config.extra_models.values()):
        check_model_folder(folder)
    keys_from_environment(os.environ)


def available_port(host: str, port: int) -> int:
    """Return the port after checking that it is available; 0 selects a free one.

    Raises:
        InputError: the port is in use, or the host is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As in servers, so that connections in TIME_WAIT do not occupy the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{host}:{port}: {reason}; stop the process that uses it, or choose another port with port=..."
        ) from None


def base_url(host: str, port: int) -> str:
    """Return the URL of a host, with brackets for an IPv6 address, and a port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
