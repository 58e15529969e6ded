"""HTTP server for an application in this process, without Ray."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from tests.serve.waiting import wait_for


@contextlib.contextmanager
def listening(application: Any) -> Iterator[str]:
    """Serve an application from a thread, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lifespan = "on" if hasattr(application, "router") else "off"
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan=lifespan))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started, "the server starts")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
