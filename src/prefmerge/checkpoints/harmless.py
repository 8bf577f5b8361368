"""The names that a pickle of weights may mention besides tensors, and what stands in for them.

Trainers save their arguments, counters and paths beside the weights. None of it is needed here, so none of it is made:
each name below stands for an empty object that takes whatever it is given and forgets it, or for a plain list or dict.
No class or function of these names is ever imported or called. Not here: any other name; torch refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

_NUMPY_SCALARS = (
    *("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "longlong", "ulonglong"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128", "str_", "bytes_", "datetime64"),
)
_NUMPY_DTYPES = (
    *("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "LongLong", "ULongLong"),
    *("Float16", "Float32", "Float64", "Complex64", "Complex128", "Str", "Bytes", "Object", "DateTime64"),
)
_OMEGACONF = (
    *("dictconfig.DictConfig", "listconfig.ListConfig", "base.Metadata", "base.ContainerMetadata"),
    *("nodes.AnyNode", "nodes.BooleanNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.StringNode"),
    *("nodes.EnumNode", "nodes.PathNode", "nodes.BytesNode"),
)
FORGOTTEN = (
    *("argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
    *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object")),
    *(f"builtins.{name}" for name in ("range", "slice", "str", "tuple")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    ),
    *("numpy.dtype", *(f"numpy.{name}" for name in _NUMPY_SCALARS)),
    *(f"numpy.dtypes.{name}DType" for name in _NUMPY_DTYPES),
    *(f"{module}.multiarray.scalar" for module in ("numpy.core", "numpy._core")),
    *("typing.Any", *(f"omegaconf.{name}" for name in _OMEGACONF)),
)
ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray")
LISTS = ("collections.deque",)
DICTS = (
    *("collections.defaultdict", "collections.UserDict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
)


class Forgotten:
    """An object of a harmless type: what it was made of is gone."""

    def __new__(cls, *_: Any, **__: Any) -> Forgotten:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes whatever it is given."""

    def __setstate__(self, state: Any) -> None:
        """Takes whatever it is given."""


class ForgottenArray(Forgotten):
    """A NumPy array: its values are gone, and it is known that there were some."""


class _EmptyDict:
    def __new__(cls, *_: Any) -> dict[Any, Any]:  # pyright: ignore[reportInconsistentConstructor]
        return {}


@cache
def stand_ins() -> tuple[Callable[..., Any], ...]:
    """What stands in for each name, in the form that `torch.serialization.safe_globals` takes."""
    return tuple(_all())


def _all() -> Iterator[Callable[..., Any]]:
    for names, kind in ((FORGOTTEN, Forgotten), (ARRAYS, ForgottenArray), (DICTS, _EmptyDict)):
        for name in names:
            yield _called(name, type(kind.__name__, (kind,), {}))
    for name in LISTS:
        yield _called(name, lambda *_: [])


def _called(name: str, stand_in: Any) -> Any:
    """torch finds it by its module and name."""
    stand_in.__module__, _, short = name.rpartition(".")
    stand_in.__name__ = stand_in.__qualname__ = short
    return stand_in
