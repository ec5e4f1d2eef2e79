"""The wheel holds all that the runtime needs, and nothing of the training side."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINING_LIBRARIES = ("torch", "lightning", "mlflow", "scikit-learn", "onnxscript", "matplotlib")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is absent: pip install -e '.[test]'")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(REPOSITORY),
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        "-w",
        str(folder),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=110)
    [path] = folder.glob("triage-*.whl")
    return zipfile.ZipFile(path)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_every_module_and_page_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {f"triage/{name}" for name in tree(REPOSITORY / "triage") if Path(name).suffix not in (".pyc", ".nbi", ".nbc")}
    assert "triage/dashboard/static/index.html" in expected
    assert expected <= set(wheel.namelist())


def test_the_configuration_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {f"triage/conf/{name}" for name in tree(REPOSITORY / "conf")}
    assert "triage/conf/run.yaml" in expected
    assert expected <= set(wheel.namelist())


def test_the_released_network_and_the_demo_run_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    released = {name for name in wheel.namelist() if name.startswith("triage/released/")}
    assert {"triage/released/triage.onnx", "triage/released/demo.h5"} <= released
    assert [name for name in released if name.endswith(".onnx")] == ["triage/released/triage.onnx"]
    assert sum(wheel.getinfo(name).file_size for name in released) < 30e6


def test_triage_is_the_only_import_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"triage"}


def test_the_runtime_asks_for_no_training_library(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    requirements = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist") or []
    runtime = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert any(requirement.startswith("onnxruntime") for requirement in runtime)
    assert not [requirement for requirement in runtime if requirement.lower().startswith(TRAINING_LIBRARIES)]


def test_the_command_and_the_developers_verbs_are_entry_points(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    text = wheel.read(name).decode()
    assert "triage = triage.__main__:main" in text
    for verb in ("simulate", "train", "evaluate", "export"):
        assert f"{verb} = training.verbs:{verb}" in text


def test_the_runtime_imports_no_training_library_even_where_it_is_installed() -> None:
    program = (
        "import sys, pkgutil, importlib, triage\n"
        "for module in pkgutil.walk_packages(triage.__path__, 'triage.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "print(sorted({'torch', 'lightning', 'mlflow', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=True)
    assert result.stdout.strip() == "[]"
