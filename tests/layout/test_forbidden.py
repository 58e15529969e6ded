"""Forbidden content: unsafe loading, path edits, variables set by Ray, paths of one machine, package registries."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.layout.source_code import CODE, parse, production_modules

UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
# Ray sets these for its workers and removes them from the environment of submitted jobs, so that a test that sets one
# would test a situation that does not occur.
SET_BY_RAY = {"RAY_JOB_ID", "RAY_RAYLET_PID"}
SETTERS = {"setenv", "setdefault", "putenv"}

# All patterns are written so that they do not match this file.
# Ending processes by name would also end those of other Ray clusters on the machine; use their ids instead. The start
# commands of cluster.yaml are exempt because they run in a container.
ENDS_PROCESSES_BY_NAME = re.compile(r"\bray[\"',\s]+stop\b|\bp(?:kill)\b|\bkill(?:all)\b")
PATH_OF_ONE_MACHINE = re.compile(r"(?<![\w.:/-])/(?:work|root|home/(?!ray\b)[a-z_][\w-]*)(?:/|\b)")
REGISTRY = re.compile(r"index[-_](?:url)", re.IGNORECASE)
# The project is not on any package index, so that this would install a package of whoever registers the name.
INSTALLS_OUR_NAME = re.compile(r"pip install (?:-\S+ )*['\"]?distilray")


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an attribute or name, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (prefix := dotted(node.value)):
        return f"{prefix}.{node.attr}"
    return ""


def unsafe(tree: ast.Module) -> Iterator[str]:
    """Yield violations of the rules for loading and importing in a module, as `line: violation`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            flags = {keyword.arg for keyword in node.keywords if getattr(keyword.value, "value", None) is True}
            if name == "torch.load" or name.startswith("sys.path."):
                yield f"{node.lineno}: {name}"
            for flag in sorted(flags & {"trust_remote_code", "allow_pickle"}):
                yield f"{node.lineno}: {flag}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names]
            tops = {(module or name).partition(".")[0] for name in names}
            if tops & UNPICKLERS:
                yield f"{node.lineno}: import of {', '.join(sorted(tops & UNPICKLERS))}"
            if (module == "torch" and "load" in names) or (module == "sys" and "path" in names):
                yield f"{node.lineno}: from {module} import {', '.join(names)}"
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            objects = [target.value if isinstance(target, ast.Subscript) else target for target in targets]
            if any(dotted(each) == "sys.path" for each in objects):
                yield f"{node.lineno}: assignment to sys.path"


def variables_of_ray_set(tree: ast.Module) -> Iterator[str]:
    """Yield the lines that set a variable of `SET_BY_RAY`, as `line: name`."""
    for node in ast.walk(tree):
        names: list[object] = []
        if isinstance(node, ast.Call):
            names = [keyword.arg for keyword in node.keywords]
            if isinstance(node.func, ast.Attribute) and node.func.attr in SETTERS:
                names += [getattr(argument, "value", None) for argument in node.args[:1]]
        elif isinstance(node, ast.Dict):
            names = [getattr(key, "value", None) for key in node.keys]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            names = [getattr(node.slice, "value", None)]
        yield from (f"{node.lineno}: {name}" for name in names if name in SET_BY_RAY)


def lines_with(pattern: re.Pattern[str], root: Path, files: list[Path]) -> list[str]:
    matches = []
    for file in files:
        try:
            text = (root / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        matches += [f"{file}:{number}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    return matches


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        *[
            (unsafe, source)
            for source in (
                "import torch\ntorch.load('x')",
                "from torch import load",
                "import pickle",
                "from pickle import loads",
                "import cloudpickle as c",
                "numpy.load('x', allow_pickle=True)",
                "AutoModel.from_pretrained(x, trust_remote_code=True)",
                "import sys\nsys.path.insert(0, 'x')",
                "sys.path += ['x']",
                "sys.path = []",
                "sys.path[0:0] = ['x']",
                "from sys import path",
            )
        ],
        *[
            (variables_of_ray_set, source)
            for source in (
                "monkeypatch.setenv('RAY_JOB_ID', 'x')",
                "os.environ['RAY_JOB_ID'] = 'x'",
                "os.environ.update(RAY_JOB_ID='x')",
                "os.environ.setdefault('RAY_JOB_ID', 'x')",
                "run(env={**os.environ, 'RAY_JOB_ID': 'x'})",
            )
        ],
    ],
)
def test_a_violation_is_detected(rule: Callable[[ast.Module], Iterator[str]], source: str) -> None:
    assert len(list(rule(ast.parse(source)))) == 1


def test_comments_text_and_the_removal_of_variables_are_allowed() -> None:
    harmless = "# torch.load(x)\n'sys.path.insert(0, x) and import pickle'\nfile.load(trust_remote_code=False)"
    removed = "monkeypatch.delenv('RAY_JOB_ID')\nos.environ.pop('RAY_JOB_ID', None)"
    assert not [*unsafe(ast.parse(harmless)), *variables_of_ray_set(ast.parse(removed))]


def test_no_module_unpickles_trusts_remote_code_or_edits_the_path(root: Path, project_files: list[Path]) -> None:
    modules = production_modules(project_files)
    assert not [f"{file}:{violation}" for file in modules for violation in unsafe(parse(root / file))]


def test_no_test_sets_a_variable_that_ray_sets(root: Path, project_files: list[Path]) -> None:
    modules = [file for file in project_files if file.suffix == ".py" and file.parts[0] == "tests"]
    named = [file for file in modules if any(name in (root / file).read_text(encoding="utf-8") for name in SET_BY_RAY)]
    assert not [f"{file}:{at}" for file in named for at in variables_of_ray_set(parse(root / file))]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (ENDS_PROCESSES_BY_NAME, "ray " + "stop --force"),
        (ENDS_PROCESSES_BY_NAME, '["ray", ' + '"stop"]'),
        (ENDS_PROCESSES_BY_NAME, "p" + "kill -f raylet"),
        (PATH_OF_ONE_MACHINE, "see /ho" + "me/ada/notes"),
        (PATH_OF_ONE_MACHINE, "path: '/wo" + "rk'"),
        (REGISTRY, "--extra-index" + "-url https://example.org"),
        (INSTALLS_OUR_NAME, "pip install --upgrade " + "distilray"),
    ],
)
def test_forbidden_text_is_detected(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize(
    ("pattern", "tops"),
    [
        (ENDS_PROCESSES_BY_NAME, (*CODE, "Makefile", ".ci", "tests")),
        (PATH_OF_ONE_MACHINE, ()),
        (REGISTRY, ()),
        (INSTALLS_OUR_NAME, ()),
    ],
    ids=["processes ended by name", "paths of one machine", "package registries", "installation of our name"],
)
def test_no_file_contains(
    root: Path, project_files: list[Path], pattern: re.Pattern[str], tops: tuple[str, ...]
) -> None:
    assert not lines_with(pattern, root, [file for file in project_files if not tops or file.parts[0] in tops])
