"""How do benchmarks run mergekit? In an environment of its own, as a program; none of its code is imported here.

A benchmark takes an environment that is there (`--mergekit ENVIRONMENT`, a folder with bin/mergekit-yaml) or makes one
in its scratch folder (some GB, minutes, needs a package index). Not here: recipes, what its outputs are worth.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VERSIONS = {"mergekit": "0.1.5", "torch": "2.13.0"}  # what is installed where no environment is given
REPORTED = (*VERSIONS, "transformers", "safetensors")
# Without the paths of this interpreter, and without a look at the hub: every model is on disk.
OWN = ["env", "-u", "PYTHONPATH", "HF_HUB_OFFLINE=1"]


@dataclass(frozen=True)
class Mergekit:
    """mergekit in a virtual environment."""

    environment: Path

    def command(self, recipe: Path, out: Path) -> list[str]:
        """Merge a recipe. The models have no tokenizer; all else is as by default."""
        return [*OWN, str(self.environment / "bin" / "mergekit-yaml"), str(recipe), str(out), "--no-copy-tokenizer"]

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its interpreter to the end."""
        command = [*OWN, str(self.environment / "bin" / "python"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def versions(self) -> dict[str, str]:
        script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        return json.loads(self.python("-c", script, *REPORTED).stdout)

    def in_a_row(self, recipes: Sequence[Path], outs: Sequence[Path], folder: Path) -> list[str | None]:
        """Merge many small recipes in one process. For each: None, or the error that it ended with."""
        jobs, answers = folder / "jobs.json", folder / "answers.json"
        pairs = [[str(recipe), str(out)] for recipe, out in zip(recipes, outs, strict=True)]
        jobs.write_text(json.dumps(pairs), encoding="utf-8")
        done = self.python("-P", str(Path(__file__).with_name("mergekit_in_a_row.py")), str(jobs), str(answers))
        if done.returncode:
            raise RuntimeError(f"mergekit ended with {done.returncode}: {done.stderr.strip()}")
        return json.loads(answers.read_text(encoding="utf-8"))


def there(environment: Path) -> Mergekit:
    """The mergekit of an environment. Raises FileNotFoundError where it has none."""
    if not (environment / "bin" / "mergekit-yaml").exists():
        raise FileNotFoundError(f"{environment} has no bin/mergekit-yaml. Give the folder of a virtual environment.")
    return Mergekit(environment.absolute())


def installed(folder: Path) -> Mergekit:
    """mergekit in a new environment in `folder`. Raises RuntimeError with what pip said where it cannot be had."""
    wanted = [f"{name}=={version}" for name, version in VERSIONS.items()]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *wanted],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"mergekit could not be installed: {done.stderr.strip()}")
    return there(folder)
