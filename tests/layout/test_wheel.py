"""Content of the wheel."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile


def test_the_wheel_contains_only_distilray(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(checkout)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    with ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"distilray"}
    modules = {str(file.relative_to(checkout / "platform")) for file in (checkout / "platform").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules - {n for n in modules if n.startswith("build/")}
    assert "distilray/py.typed" in names
    data = [*(checkout / "platform").rglob("*.yaml"), *(checkout / "platform").rglob("templates/*.*")]
    assert {str(file.relative_to(checkout / "platform")) for file in data} <= set(names)
