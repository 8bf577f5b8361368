"""Makes golden/opcm: what the authors' released code of OPCM makes of base, cars, birds and digits.

    git clone https://github.com/tanganke/fusion_bench; git -C fusion_bench checkout 54c9e8c9d962
    python make_opcm.py fusion_bench       where torch 2.13.0 is installed, which the tests do not need

Their class runs as it stands, over models of `nn.Linear`, `nn.Embedding` and weights of norms; what it imports beside
torch and their own helpers is replaced by nothing. Left out: their shuffling, and what it saves and logs on the way.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from safetensors.torch import load_file, save_file
from torch import nn

HERE = Path(__file__).parent
OURS = ("base", "cars", "birds", "digits")
# Their own helpers, which are run; any other module is nothing.
REAL = (
    "method.opcm.opcm_general",
    "method.opcm.utils",
    "models.utils",
    "utils.parameters",
    "utils.state_dict_arithmetic",
)
NOTHING = ("lightning", "omegaconf", "transformers", "tqdm")


class Mixin:
    """In place of their base classes."""

    log_dir = None
    fabric = types.SimpleNamespace(device="cpu", log=lambda *_, **__: None)

    def __init__(self, **_: Any) -> None:
        pass

    @contextlib.contextmanager
    def profile(self, _: str) -> Any:
        yield

    def print_profile_summary(self) -> None:
        pass


class Pool:
    """In place of their pool of models."""

    def __init__(self) -> None:
        self.model_names = list(OURS[1:])

    def load_pretrained_model(self) -> nn.Module:
        return model("base")

    def load_model(self, name: str) -> nn.Module:
        return model(name)


class Nothing:
    """Finds a module for every name that is not to be run."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        nothing: Any = self
        first, _, rest = name.partition(".")
        if first != "fusion_bench":
            return ModuleSpec(name, nothing) if first in NOTHING else None
        if rest in REAL:
            file = self.checkout / "fusion_bench" / f"{rest.replace('.', '/')}.py"
            return importlib.util.spec_from_file_location(name, file)
        return ModuleSpec(name, nothing)

    def create_module(self, spec: ModuleSpec) -> Any:
        made = MagicMock(name=spec.name)
        made.__path__, made.__spec__ = [], spec
        made.BaseAlgorithm = Mixin
        made.LightningFabricMixin, made.SimpleProfilerMixin = type("A", (), {}), type("B", (), {})
        made.auto_register_config = lambda one: one
        made.is_ray_available = lambda: False
        made.tqdm = lambda values, **_: values
        return made

    def exec_module(self, module: Any) -> None:
        pass


def model(name: str) -> nn.Module:
    """A model with the tensors of a folder, each in the module that a Llama has it in."""
    whole = nn.Module()
    for key, values in load_file(HERE / name / "model.safetensors").items():
        *path, last = key.split(".")[:-1]
        at: Any = whole
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        if "norm" in last:
            own = nn.Module()
            own.weight = nn.Parameter(values)
        else:
            rows, columns = values.shape
            own = nn.Embedding(rows, columns) if "embed" in last else nn.Linear(columns, rows, bias=False)
            own.weight.data = values
        at.add_module(last, own)
    return whole


def main() -> None:
    sys.meta_path.insert(0, Nothing(Path(sys.argv[1])))
    theirs = importlib.import_module("fusion_bench.method.opcm.opcm_general")
    for alpha in (0.0, 0.3, 0.5):
        given = {"alpha": alpha, "shuffle_order": False, "seed": None, "save_on_every_step": False, "num_ray_actors": 0}
        method = theirs.OPCM(**given)
        vars(method).update(given)  # what their decorator does
        made = method.run(Pool())
        state = {name: values.detach().contiguous() for name, values in made.state_dict().items()}
        (HERE / "opcm").mkdir(exist_ok=True)
        save_file(state, HERE / "opcm" / f"{alpha}.safetensors", metadata={"format": "pt"})
        (HERE / "opcm" / f"{alpha}.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
