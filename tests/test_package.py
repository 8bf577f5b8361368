"""The wheel and the sdist: they hold the package and no more, and what is installed from the wheel works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import prefmerge
from tests.merging.test_candidates import files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "prefmerge"
MOST = 3_000_000  # bytes; the demo's base model and the published tables are most of it


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made from it; built with what is installed, from a copy of the sources."""
    place = tmp_path_factory.mktemp("build")
    source, out = place / "source", place / "dist"
    source.mkdir()
    for name in (
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "MANIFEST.in",
        "constraints.txt",
        "setup.py",
    ):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in ("tests", "benchmarks", "docs", "examples"):
        (source / name).symlink_to(ROOT / name)
    for path in PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def of_the_package() -> set[str]:
    return {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_no_more(built: tuple[Path, Path]):
    _, wheel = built
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = message_from_string(file.read(f"prefmerge-{prefmerge.__version__}.dist-info/METADATA").decode())
    assert {name for name in names if ".dist-info/" not in name} == of_the_package()
    assert wheel.name == f"prefmerge-{prefmerge.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST
    assert (metadata["Name"], metadata["Version"]) == ("prefmerge", prefmerge.__version__)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"Summary", "Requires-Python", "License-Expression", "Keywords"} <= set(metadata)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra") or []) == {name.replace("_", "-") for name in extras}


def test_an_index_shows_nothing_that_leads_nowhere(built: tuple[Path, Path]):
    """Links and pictures of the README are relative to the source, of which an index has no file."""
    _, wheel = built
    with zipfile.ZipFile(wheel) as file:
        told = message_from_string(file.read(f"prefmerge-{prefmerge.__version__}.dist-info/METADATA").decode())
    text, readme = str(told.get_payload()), (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    assert "![" not in text
    assert text.startswith("# prefmerge\n\n> This is the README of the source.")
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", readme)
    missing = [line for line in words.splitlines() if line[:4] == "    " and line not in text.splitlines()]
    assert missing == []  # every command and all that it prints
    for picture, target in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", readme):
        assert f"`{target}` in the source: {picture}" in text
    for name, target in re.findall(r"(?<!!)\[([^\]]*)\]\((docs/[^)#]*)", readme):
        assert f"{name} (`{target}`)" in text or name == target


def test_the_sdist_holds_the_sources_and_no_more(built: tuple[Path, Path]):
    sdist, _ = built
    top = f"prefmerge-{prefmerge.__version__}"
    with tarfile.open(sdist) as file:
        names = {name.removeprefix(f"{top}/") for name in file.getnames() if not file.getmember(name).isdir()}
    assert {name.removeprefix("src/") for name in names if name.startswith("src/prefmerge/")} == of_the_package()
    beside = {name for name in names if not name.startswith("src/")}
    assert beside == {
        *("CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md"),
        *("constraints.txt", "pyproject.toml", "setup.cfg", "setup.py"),
    }
    assert sdist.stat().st_size < MOST


def test_what_the_wheel_installs_merges(built: tuple[Path, Path], tmp_path: Path):
    """In an environment of its own, which has what prefmerge stands on but not these sources."""
    _, wheel = built
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    (beneath,) = {path for path in sys.path if path.endswith("site-packages") and (Path(path) / "numpy").is_dir()}
    (site / "beneath.pth").write_text(beneath, encoding="utf-8")
    base, tasks = files(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        command = [str(home / "bin" / "python"), "-m", "prefmerge", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import prefmerge, sys; sys.stdout.write(prefmerge.__file__)"
    found = subprocess.run([str(home / "bin" / "python"), "-c", where], capture_output=True, text=True, env=environment)
    assert Path(found.stdout).is_relative_to(site), "these sources would be tried in place of the wheel's"
    assert run("--version") == f"prefmerge {prefmerge.__version__}\n"
    run("merge", str(base), *map(str, tasks), "-o", "merged.safetensors", "--method", "magmax")  # of few kernels
    assert "ok" in run("verify", "merged.safetensors", "--with-inputs")


def test_the_changelog_begins_with_this_version():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert headings[0].startswith(f"## {prefmerge.__version__} (")
