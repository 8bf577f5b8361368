"""A notebook without Jupyter: run its cells, keep what they show, and read it as Markdown.

    python -m pages.notebook examples/tour.ipynb --run demo-out     runs it over a demo, and keeps what it shows

All code cells share one namespace. A cell shows what it prints, the value of its last line where that is an expression
without a `;` behind it, and the figures of matplotlib that it leaves open, as in Jupyter. Cost: that of the cells. Not
here: widgets, magics, other languages.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any


def read_notebook(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def write_notebook(notebook: dict[str, Any], file: Path) -> None:
    """As Jupyter writes it: one space, keys as they are."""
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(outputs: list[dict[str, Any]]) -> str:
    """The words of a cell's outputs, without pictures."""
    return "".join(
        "".join(one["text"] if one["output_type"] == "stream" else one["data"].get("text/plain", "")) for one in outputs
    )


def run_cells(notebook: dict[str, Any]) -> None:
    """Run every code cell in this folder, and put what it shows into it. Raises what a cell raises."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        cell["execution_count"] = number
        cell["outputs"] = _run("".join(cell["source"]), names, number)


def _run(code: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tree = ast.parse(code)
    end = tree.body[-1] if tree.body else None
    last = end.value if isinstance(end, ast.Expr) else None
    if last is not None:
        del tree.body[-1]
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last), f"cell {number}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None and not code.rstrip().endswith(";"):
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs + [{"data": data, "metadata": {}, "output_type": "display_data"} for data in _figures()]


def _figures() -> list[dict[str, Any]]:
    """The open figures, which are closed."""
    import matplotlib.pyplot as plt

    pictures = []
    for number in plt.get_fignums():
        plt.figure(number).savefig(image := io.BytesIO(), format="png", dpi=80, metadata={"Software": None})
        pictures.append({"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]})
    plt.close("all")
    return pictures


def as_markdown(notebook: dict[str, Any]) -> str:
    """Its text, its code as blocks of Python, and what they show."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for one in cell["outputs"]:
            if "image/png" in one.get("data", {}):
                parts.append(f"![What the code above draws](data:image/png;base64,{one['data']['image/png']})")
            else:
                parts.append(f"```text\n{text_of([one]).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    import matplotlib

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--run", type=Path, help="a finished demo; without it the notebook makes one")
    given = parser.parse_args()
    matplotlib.use("agg")
    notebook = read_notebook(given.notebook)
    with tempfile.TemporaryDirectory() as folder:
        if given.run is not None:
            shutil.copytree(given.run, Path(folder) / "demo-out")
        with contextlib.chdir(folder):
            run_cells(notebook)
    write_notebook(notebook, given.notebook)


if __name__ == "__main__":
    main()
