"""The paths of the service as labels: a set of fixed size, whatever clients ask for."""

from collections.abc import Collection

from starlette.types import Scope

# Every path beside those of the task; a folder of those below stands for all its files.
_PATHS = frozenset({"/", "/healthz", "/readyz", "/info", "/metrics", "/openapi.json"})
_FOLDERS = ("/ui", "/docs")
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def path_of(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def in_folder(path: str) -> str | None:
    """The folder of the page or the documentation that a path is or lies in, else None."""
    return next((folder for folder in _FOLDERS if path == folder or path.startswith(f"{folder}/")), None)


def route_of(scope: Scope, task_paths: Collection[str]) -> str:
    """The route of a request, also of one that was turned away before it was routed; `other` for an unknown path."""
    path = path_of(scope)
    return path if path in _PATHS or path in task_paths else in_folder(path) or OTHER


def method_of(scope: Scope) -> str:
    """The method of a request, `other` for one that is none of HTTP's usual."""
    method = str(scope.get("method", ""))
    return method if method in _METHODS else OTHER
