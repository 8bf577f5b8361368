"""What bad data gets: a message that names the file and what is wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefmerge.errors import DataError
from tests.data.datasets import grey, image_folder, png, text_csv, write_csv, write_parquet
from tests.data.test_load import corpus


def unreadable(tmp_path: Path) -> object:
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    (folder / "dog" / "2.png").write_bytes(b"\x89PNG no")
    train = corpus(folder, test=str(folder)).train
    return train.read([train.ids.index("dog/2.png")])


def unreadable_in_parquet(tmp_path: Path) -> object:
    import datasets

    columns = {"image": [{"bytes": b"zzz", "path": None}] * 5, "label": ["a"] * 5}
    features = {"image": datasets.Image(), "label": datasets.Value("string")}
    write_parquet(tmp_path / "p" / "train.parquet", columns, features)
    return corpus(tmp_path / "p").train.read([0])


def odd_image(mode: str, values: list[float]) -> Callable[[Path], object]:
    def act(tmp_path: Path) -> object:
        folder = image_folder(tmp_path / "pets", ("cat", "dog"))
        (folder / "dog" / "x.tif").write_bytes(grey(mode, values))
        train = corpus(folder, test=str(folder)).train
        return train.read([train.ids.index("dog/x.tif")])

    return act


def table(text: str, name: str = "t.csv", **options) -> Callable[[Path], object]:
    def act(tmp_path: Path) -> object:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return corpus(tmp_path / name, **options)

    return act


def parquet(columns: dict, features: Callable | None = None, **options) -> Callable[[Path], object]:
    def act(tmp_path: Path) -> object:
        write_parquet(tmp_path / "p" / "train.parquet", columns, None if features is None else features())
        return corpus(tmp_path / "p", **options)

    return act


def empty_folder(tmp_path: Path) -> object:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    return corpus(tmp_path / "pets")


def loose_images(tmp_path: Path) -> object:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "0.png").write_bytes(png(0))
    return corpus(tmp_path / "pets")


def broken_parquet(tmp_path: Path) -> object:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "train.parquet").write_bytes(b"PAR1 no")
    return corpus(tmp_path / "p")


def bare_numbers() -> dict:
    import datasets

    return {"text": datasets.Value("string"), "label": datasets.Value("int64")}


def unlabelled() -> dict:
    import datasets

    return {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unreadable image": (
        unreadable,
        r"pets, split 'train': sample 'dog/2.png', column 'image': cannot be read as an image \(7 bytes\)\. Replace",
    ),
    "unreadable image in parquet": (
        unreadable_in_parquet,
        r"p, split 'train': sample 'train/00000', column 'image': cannot be read as an image \(3 bytes\)",
    ),
    "an image of floats": (
        odd_image("F", [0.0, 1.0]),
        r"sample 'dog/x.tif', column 'image': is an image of mode F, which holds floats; expected 8 bits a channel, or "
        r"16-bit grey \(0 to 65535\)\. Save it as 8-bit\.$",
    ),
    "an image of more than 16 bits": (
        odd_image("I", [0, 65536]),
        r"sample 'dog/x.tif', column 'image': is an image of mode I, which holds integers from 0 to 65536; expected 8 "
        r"bits .* Save it as 8-bit\.$",
    ),
    "an image of negative numbers": (
        odd_image("I", [-1, 5]),
        r"of mode I, which holds integers from -1 to 5; expected",
    ),
    "empty folder": (
        empty_folder,
        r"pets: no images \(\.bmp, .*\) in folders named after their classes\. Expected CLASS/IMAGE",
    ),
    "images without class folders": (loose_images, r"pets: no images .* in folders named after their classes"),
    "wrong column": (
        table("text,label\na,b\n", label="kind"),
        r"t\.csv: there is no label column 'kind'; the columns are: text, label\.",
    ),
    "no column looks right": (
        table("words,label\na,b\n"),
        r"no column looks like the input \(text, .*the columns are: words, label\. Say which with `input: COLUMN`",
    ),
    "missing label": (
        table('text,label\n"a\nb",x\nc,\n'),
        r"t\.csv: line 4 has nothing in column 'label'\. Fill the cell or remove the line\.",
    ),
    "a label that is spaces": (table("text,label\na,x\n\nb, \n"), r"line 4 has nothing in column 'label'"),
    "a short line": (table("text,label\na,x\nb\n"), r"line 3 has nothing in column 'label'"),
    "a long line": (table("text,label\na, b,x\n"), r"line 2 has 3 cells, the header has 2\. Quote cells"),
    "an open quote": (
        table('text,label\n"a,x\n'),
        r"t\.csv: line 1 or one soon after cannot be read: unexpected end of data",
    ),
    "an empty table": (table(""), r"t\.csv: holds nothing\. Expected a header line"),
    "a header alone": (table("text,label\n"), r"t\.csv: holds a header but no samples"),
    "a column twice": (table("text,label,text\na,b,c\n"), r"the column 'text' occurs twice in the header"),
    "an id twice": (table("id,text,label\n1,a,x\n1,b,x\n"), r"the id '1' occurs twice in column 'id'"),
    "no such file": (lambda p: corpus(p / "none.csv"), r"none\.csv: no such file\."),
    "no such test file": (
        lambda p: corpus(text_csv(p / "a.csv"), test=str(p / "b.csv")),
        r"b\.csv: no such file\.",
    ),
    "not UTF-8": (
        lambda p: (p / "t.csv").write_bytes("text,label\né,x\n".encode("latin-1")) and corpus(p / "t.csv"),
        r"t\.csv: byte 11 is not UTF-8\. Save the file as UTF-8\.",
    ),
    "an image that is not there": (
        table("image,label\na.png,x\n"),
        r"t\.csv: line 2 names '.*a\.png', and there is no such file\. Paths are relative to the CSV\.",
    ),
    "an image's path that is too long": (
        table(f"image,label\n{'a' * 5000},x\n"),
        r"t\.csv: line 2, column 'image': 'a{100}…' cannot be the path of an image: File name too long\. Correct the "
        r"cell; or, if it is a text, say `kind: text`\.$",
    ),
    "an image's path with a NUL": (
        table("image,label\na\0.png,x\n"),
        r"t\.csv: line 2, column 'image': 'a\\x00\.png' cannot be the path of an image: embedded null",
    ),
    "a home that nobody has": (
        lambda p: corpus("~nouser/x"),
        r"^data set '~nouser/x': no home directory is known for '~nouser'\. Write the path out in full\.$",
    ),
    "a test set in a home that nobody has": (
        lambda p: corpus(image_folder(p / "pets", ("cat",)), test="~nouser/x"),
        r"^test: '~nouser/x': no home directory is known for '~nouser'\.",
    ),
    "a test table in a home that nobody has": (
        lambda p: corpus(text_csv(p / "a.csv"), test="~nouser/x.csv"),
        r"^test: '~nouser/x\.csv': no home directory is known for '~nouser'\.",
    ),
    "a NUL in a path": (
        lambda p: corpus("a\0b"),
        r"^data set 'a\\x00b': cannot be a path: .*null.*\. Give a folder of images, a CSV, or a hub id",
    ),
    "a NUL in the path of a table": (
        lambda p: corpus("a\0b.csv"),
        r"^data set 'a\\x00b\.csv': cannot be a path: .*null",
    ),
    "a name that is too long": (
        lambda p: corpus("x" * 5000),
        r"^data set 'x{100}…': cannot be a path: File name too long\. Give a folder of images",
    ),
    "a path just short of too long": (
        lambda p: corpus("./" + "/".join(["y" * 99] * 40) + "/" + "z" * 90),
        r": no such file or folder, and no registered name\.",
    ),
    "unknown class": (
        lambda p: corpus(text_csv(p / "a.csv"), classes=("cat", "dog", "owls")),
        r"the label 'owl' \(first at sample 'a/00002'\) is not among the 3 classes cat, dog, owls\. Did you mean 'owls",
    ),
    "a label that two classes could mean": (
        table("text,label\na,c\n", classes=("C", "C++")),
        r"the label 'c' \(first at sample 't/00000'\) is not among the 2 classes C, C\+\+",
    ),
    "unknown class in the test file": (
        lambda p: corpus(
            text_csv(p / "a.csv"), test=str(text_csv(p / "b.csv", ("cow",))), classes=("cat", "dog", "owl")
        ),
        r"b\.csv: the label 'cow' \(first at sample 'test/00000'\) is not among the 3 classes",
    ),
    "numbers that nothing names": (
        table("text,label\na,0\nb,10\nc,9\n"),
        r"the labels are numbers \(0, 9, 10\) and nothing names them\. Give `classes: \[name of 0, name of 1, …\]`",
    ),
    "a number beyond the classes": (
        table("text,label\na,0\nb,2\n", classes=("x", "y")),
        r"the label 2 is beyond the 2 classes, which are numbered from 0",
    ),
    "a class listed twice": (table("text,label\na,x\n", classes=("x", "x")), r"`classes` lists 'x' twice"),
    "numbers in parquet": (
        parquet({"text": ["a", "b"], "label": [0, 1]}, bare_numbers),
        r"p, split 'train': the labels are numbers \(0, 1\) and nothing names them",
    ),
    "no label in parquet": (
        parquet({"text": ["a", "b"], "label": [0, -1]}, unlabelled),
        r"p, split 'train': row 1 has nothing in column 'label'; every sample needs a value\.",
    ),
    "several labels": (
        parquet({"text": ["a"], "label": [[1, 2]]}),
        r"column 'label' holds List.*; expected class labels, names or integers",
    ),
    "inputs of another kind": (
        parquet({"text": [1.5], "label": ["x"]}),
        r"column 'text' holds Value\('float64'\); expected images or texts\. Say which with `input: COLUMN`",
    ),
    "texts where images were asked for": (
        parquet({"text": ["a"], "label": ["x"]}, kind="image"),
        r"column 'text' holds texts, and `kind: image` was asked for",
    ),
    "a split that is not there": (
        parquet({"text": ["a"], "label": ["x"]}, test="dev"),
        r"p: `test: dev` is neither a split nor a file or folder; the splits are: train\.",
    ),
    "a broken parquet file": (
        broken_parquet,
        r"p: cannot be read as a data set: ",
    ),
    "a name like a registered one": (
        lambda p: corpus("cifar10"),
        r"'cifar10': no such file or folder, and no registered name\. Did you mean 'cifar100'\? Registered: cifar100, ",
    ),
    "a path that is not there": (
        lambda p: corpus(p / "none"),
        r"none': no such file or folder, and no registered name\.",
    ),
    "a copy that is not there": (
        lambda p: corpus("cars", path=str(p / "none")),
        r"none: no such file or folder\. Give a folder of images",
    ),
    "a hub id out of reach": (
        lambda p: corpus("nobody/nothing"),
        r"data set 'nobody/nothing': no such folder here, and it cannot be had from the hub \(.*\)\. Give `path:`",
    ),
    "texts to test a folder of images": (
        lambda p: corpus(image_folder(p / "pets", ("cat", "dog")), test=str(text_csv(p / "b.csv"))),
        r"b\.csv: holds texts, and the training samples are images",
    ),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_bad_data_is_named(case: str, tmp_path: Path):
    act, message = BREAKAGES[case]
    with pytest.raises(DataError, match=message):
        act(tmp_path)


def test_an_id_twice_among_many_is_found_in_time(tmp_path: Path):
    rows = [(f"k{min(i, 49_998)}", "t", "x") for i in range(50_000)]
    file = write_csv(tmp_path / "t.csv", ("id", "text", "label"), rows)
    before = time.process_time()
    with pytest.raises(DataError, match=r"the id 'k49998' occurs twice in column 'id'\. Ids must differ; or rename"):
        corpus(file)
    assert time.process_time() - before < 5, "counting each id anew takes a minute"


def test_a_name_beside_a_path_need_not_be_a_path(tmp_path: Path):
    assert corpus("~nouser/x", path=str(text_csv(tmp_path / "a.csv"))).name == "x"


def test_without_the_library_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from prefmerge.errors import MissingExtra

    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingExtra, match=r"folders of images needs an optional dependency.*pip install 'prefmerge\[train\]'"
    ):
        corpus(folder)
    assert len(corpus(text_csv(tmp_path / "a.csv")).train) == 24, "a table of texts needs no library"
