"""Forbidden content: unsafe loading, path edits, variables set by Ray, paths of one machine, package registries."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CODE = ("platform", "jobs", "serve", "tuning")
UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
# Ray sets these for its workers and removes them from the environment of submitted jobs, so that a test that sets one
# would test a situation that does not occur.
SET_BY_RAY = {"RAY_JOB_ID", "RAY_RAYLET_PID"}
SETTERS = {"setenv", "setdefault", "putenv"}

# All patterns are written so that they do not match this file.
ENDS_PROCESSES_BY_NAME = re.compile(r"\bray[\"',\s]+stop\b|\bp(?:kill)\b|\bkill(?:all)\b")
PATH_OF_ONE_MACHINE = re.compile(r"(?<![\w.:/-])/(?:work|root|home/(?!ray\b)[a-z_][\w-]*)(?:/|\b)")
REGISTRY = re.compile(r"index[-_](?:url)", re.IGNORECASE)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an attribute or name, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (prefix := dotted(node.value)):
        return f"{prefix}.{node.attr}"
    return ""


def unsafe(source: str) -> Iterator[str]:
    """Yield violations of the rules for loading and importing in a module, as `line: violation`."""
    for node in ast.walk(ast.parse(source)):
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


@pytest.mark.parametrize(
    "source",
    [
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
    ],
)
def test_the_rule_on_loading_and_importing_can_fail(source: str) -> None:
    assert list(unsafe(source))


def test_the_rule_on_loading_and_importing_ignores_comments_and_text() -> None:
    assert not list(
        unsafe("# torch.load(x)\n'sys.path.insert(0, x) and import pickle'\nfile.load(trust_remote_code=False)")
    )


def test_no_module_unpickles_trusts_remote_code_or_edits_the_path(root: Path, project_files: list[Path]) -> None:
    modules = [file for file in project_files if file.suffix == ".py" and file.parts[0] in CODE]
    violations = [f"{file}:{each}" for file in modules for each in unsafe((root / file).read_text(encoding="utf-8"))]
    assert not violations


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (ENDS_PROCESSES_BY_NAME, "ray " + "stop --force"),
        (ENDS_PROCESSES_BY_NAME, '["ray", ' + '"stop"]'),
        (ENDS_PROCESSES_BY_NAME, "p" + "kill -f raylet"),
        (PATH_OF_ONE_MACHINE, "see /ho" + "me/ada/notes"),
        (PATH_OF_ONE_MACHINE, "path: '/wo" + "rk'"),
        (REGISTRY, "--extra-index" + "-url https://example.org"),
    ],
)
def test_the_patterns_can_fail(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


def variables_of_ray_set(source: str) -> Iterator[str]:
    """Lines of a module that set a variable of `SET_BY_RAY`, as `line: name`."""
    for node in ast.walk(ast.parse(source)):
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


@pytest.mark.parametrize(
    "source",
    [
        "monkeypatch.setenv('RAY_JOB_ID', 'x')",
        "os.environ['RAY_JOB_ID'] = 'x'",
        "os.environ.update(RAY_JOB_ID='x')",
        "os.environ.setdefault('RAY_JOB_ID', 'x')",
        "run(env={**os.environ, 'RAY_JOB_ID': 'x'})",
    ],
)
def test_the_rule_on_variables_of_ray_can_fail(source: str) -> None:
    assert list(variables_of_ray_set(source)) == ["1: RAY_JOB_ID"]


def test_the_rule_on_variables_of_ray_lets_them_be_removed() -> None:
    assert not list(variables_of_ray_set("monkeypatch.delenv('RAY_JOB_ID')\nos.environ.pop('RAY_JOB_ID', None)"))


def test_no_test_sets_a_variable_that_ray_sets(root: Path, project_files: list[Path]) -> None:
    modules = [file for file in project_files if file.suffix == ".py" and file.parts[0] == "tests"]
    sources = {file: (root / file).read_text(encoding="utf-8") for file in modules}
    named = {file: source for file, source in sources.items() if any(name in source for name in SET_BY_RAY)}
    assert not [f"{file}:{at}" for file, source in named.items() for at in variables_of_ray_set(source)]


def lines_with(pattern: re.Pattern[str], root: Path, files: list[Path]) -> list[str]:
    matches = []
    for file in files:
        try:
            text = (root / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        matches += [f"{file}:{number}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    return matches


def test_no_target_test_or_job_ends_processes_by_name(root: Path, project_files: list[Path]) -> None:
    # This would also stop other Ray clusters of the machine; stop processes by their id instead. The start commands of
    # cluster.yaml are exempt because they run in a container.
    tops = {"Makefile", ".ci", "tests", "jobs", "serve", "tuning", "platform"}
    assert not lines_with(ENDS_PROCESSES_BY_NAME, root, [file for file in project_files if file.parts[0] in tops])


def test_no_file_names_a_path_of_one_machine(root: Path, project_files: list[Path]) -> None:
    assert not lines_with(PATH_OF_ONE_MACHINE, root, project_files)


def test_no_file_names_a_package_registry(root: Path, project_files: list[Path]) -> None:
    assert not lines_with(REGISTRY, root, project_files)


def test_no_command_installs_a_package_under_our_name(root: Path, project_files: list[Path]) -> None:
    # The project is not on any package index, so that this would install a package of whoever registers the name.
    assert not lines_with(re.compile(r"pip install (?:-\S+ )*['\"]?distilray"), root, project_files)
