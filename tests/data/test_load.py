"""A user's own data: CSVs, folders of images, folders of the `datasets` library; and what bad ones get."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefmerge.config import DataConfig
from prefmerge.data import load_corpus
from prefmerge.errors import DataError
from tests.data.datasets import class_in, grey, image_folder, png, text_csv, write_csv, write_parquet


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library-cache")


def corpus(name: Path | str, seed: int = 0, **options):
    return load_corpus(DataConfig(name=str(name), **options), seed)


# Tables.


def test_a_csv_in_one_line_of_configuration(tmp_path: Path):
    result = corpus(text_csv(tmp_path / "animals.csv"))
    assert (result.name, result.kind, result.classes, result.templates) == (
        "animals",
        "text",
        ("cat", "dog", "owl"),
        ("{}",),
    )
    assert (len(result.train), len(result.test)) == (24, 6)
    assert result.test.label_counts() == {0: 2, 1: 2, 2: 2}
    for split in (result.train, result.test):
        texts = split.read(range(len(split)))
        assert [text.split()[0] for text in texts] == [result.classes[label] for label in split.labels]
    assert not set(result.train.ids) & set(result.test.ids)
    assert set(result.train.ids) | set(result.test.ids) == {f"animals/{i:05d}" for i in range(30)}


def test_a_csv_with_its_test_file(tmp_path: Path):
    train = text_csv(tmp_path / "a.csv")
    test = text_csv(tmp_path / "b.csv", ("owl", "dog", "cat"), 2)
    result = corpus(train, test=str(test))
    assert (result.train.ids[0], result.test.ids) == ("train/00000", tuple(f"test/{i:05d}" for i in range(6)))
    assert result.test.labels.tolist() == [2, 1, 0, 2, 1, 0], "by name: owl is class 2 of the training file"


def test_a_folder_with_tables(tmp_path: Path):
    (tmp_path / "words").mkdir()
    text_csv(tmp_path / "words" / "train.csv")
    text_csv(tmp_path / "words" / "test.csv", per_class=2)
    result = corpus(tmp_path / "words")
    assert (result.name, len(result.train), len(result.test)) == ("words", 30, 6)


@pytest.mark.parametrize(("text", "label"), [("Sentence", "Category"), ("text", "class"), ("content", "target")])
def test_columns_are_recognised_whatever_their_case(tmp_path: Path, text: str, label: str):
    rows = [(i, f"x{i}", "ab"[i % 2]) for i in range(10)]
    result = corpus(write_csv(tmp_path / "t.csv", ("number", text, label), rows))
    assert result.classes == ("a", "b")
    assert sorted(result.train.read(range(8)) + result.test.read(range(2))) == sorted(f"x{i}" for i in range(10))


def test_columns_that_are_said(tmp_path: Path):
    rows = [("t", "body", "l", "topic", "north")] * 5
    file = write_csv(tmp_path / "t.csv", ("text", "body", "label", "topic", "region"), rows)
    result = corpus(file, input="body", label="topic", domain="region")
    assert (result.classes, result.train.read([0]), result.train.domains) == (("topic",), ["body"], ("north",) * 4)


def test_a_tsv_with_ids_quotes_and_a_byte_order_mark(tmp_path: Path):
    file = write_csv(
        tmp_path / "t.tsv", ("id", "text", "label"), [("k1", "a, b\nc", "x"), ("k2", 'say "d"', "x")], "\t"
    )
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    result = corpus(file, test=str(file))
    assert result.train.ids == ("k1", "k2")
    assert result.train.read([1, 0]) == ['say "d"', "a, b\nc"]


def test_a_csv_of_images(tmp_path: Path):
    image_folder(tmp_path / "photos", ("cat", "dog"))
    rows = [(f"photos/{name}/{i}.png", name) for i in range(4) for name in ("cat", "dog")]
    result = corpus(write_csv(tmp_path / "list.csv", ("path", "label"), rows), test=str(tmp_path / "photos"))
    assert (result.kind, result.templates) == ("image", ("a photo of a {}.",))
    assert result.train.ids[0] == "photos/cat/0.png"
    assert result.test.ids[0] == "test/cat/0.png"
    for split in (result.train, result.test):
        assert [class_in(image) for image in split.read(range(8))] == split.labels.tolist()


def test_classes_map_by_name_and_numbers_by_the_list(tmp_path: Path):
    named = corpus(text_csv(tmp_path / "a.csv"), classes=("Owl", "CAT", "dog"))
    assert [named.classes[label].casefold() for label in named.train.labels] == [
        text.split()[0] for text in named.train.read(range(24))
    ]
    numbers = write_csv(tmp_path / "n.csv", ("text", "label"), [(f"t{i % 3}", i % 3) for i in range(15)])
    numbered = corpus(numbers, classes=("zero", "one", "two"))
    assert [f"t{label}" for label in numbered.train.labels] == numbered.train.read(range(12))
    digits = corpus(numbers, classes=("2", "1", "0"))  # numbers that are names are names
    assert [f"t{2 - label}" for label in digits.train.labels] == digits.train.read(range(12))


def test_names_that_fold_alike_are_told_apart_as_written(tmp_path: Path):
    rows = [("x", "C"), ("y", "C++"), ("z", "C#")] * 5
    result = corpus(write_csv(tmp_path / "t.csv", ("text", "label"), rows), classes=("C#", "C", "C++"))
    assert [{"x": 1, "y": 2, "z": 0}[text] for text in result.train.read(range(12))] == result.train.labels.tolist()


# Folders of images.


def test_a_folder_of_class_folders_holds_a_fifth_out(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog", "train"), per_class=5)  # train is a class here
    result = corpus(folder)
    assert (result.name, result.kind, result.classes) == ("pets", "image", ("cat", "dog", "train"))
    assert (len(result.train), result.test.label_counts()) == (12, {0: 1, 1: 1, 2: 1})
    assert {"cat/0.png", "dog/4.png"} <= set(result.train.ids) | set(result.test.ids)
    assert [class_in(image) for image in result.train.read(range(12))] == result.train.labels.tolist()


def test_a_folder_with_train_and_test(tmp_path: Path):
    image_folder(tmp_path / "pets" / "train", ("cat", "dog"), per_class=3)
    image_folder(tmp_path / "pets" / "test", ("cat", "dog"), per_class=1)
    (tmp_path / "pets" / "train" / "cat" / ".hidden.png").write_bytes(b"")
    image_folder(tmp_path / "pets" / "train" / ".thumbnails", ("cat",))
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("of no use")
    result = corpus(tmp_path / "pets")
    assert result.train.ids == tuple(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(3))
    assert result.test.ids == ("test/cat/0.png", "test/dog/0.png")


def test_names_of_files_that_look_like_patterns_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a [b]" / "c*d").mkdir(parents=True)
    for i in range(5):
        (tmp_path / "a [b]" / "c*d" / f"img[{i}] (1).PNG").write_bytes(png(0, i))
    monkeypatch.chdir(tmp_path)
    result = corpus("a [b]")
    assert result.classes == ("c*d",)
    assert set(result.train.ids) | set(result.test.ids) == {f"c*d/img[{i}] (1).PNG" for i in range(5)}
    assert len(result.train.read(range(4))) == 4


def test_the_class_is_the_topmost_folder_however_deep_the_image(tmp_path: Path):
    for split in ("train", "test"):
        for label, name in enumerate(("cats", "dogs")):
            (tmp_path / split / name / "images" / "more").mkdir(parents=True)
            (tmp_path / split / name / "images" / "x.png").write_bytes(png(label))
            (tmp_path / split / name / "images" / "more" / "y.png").write_bytes(png(label))
    for result in (corpus(tmp_path), corpus(tmp_path / "train", test=str(tmp_path / "test"))):
        assert result.classes == ("cats", "dogs")
        assert [result.train.labels.tolist(), result.test.labels.tolist()] == [[0, 0, 1, 1]] * 2
    assert corpus(tmp_path).train.ids[:2] == ("train/cats/images/more/y.png", "train/cats/images/x.png")


def test_links_between_folders_repeat_no_sample(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    image_folder(tmp_path / "store", ("owl",))
    (folder / "owl").symlink_to(tmp_path / "store" / "owl")
    plain = corpus(folder, test=str(folder))
    (folder / "cat" / "loop").symlink_to(folder / "cat")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "above").symlink_to(tmp_path)
    (folder / "a cat").symlink_to(folder / "cat")  # sorts before it, and yet the real folder names the class
    (tmp_path / "store" / "owl" / "out").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "other").mkdir()
    (tmp_path / "store" / "other" / "0.png").write_bytes(png(3))
    linked = corpus(folder, test=str(folder))
    assert plain.classes == linked.classes == ("cat", "dog", "owl")
    assert plain.train.ids == linked.train.ids
    assert len(plain.train) == 12


# Folders of the library.


def test_a_text_data_set_in_parquet_and_on_disk(tmp_path: Path):
    import datasets

    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    columns = {"sentence": [f"bad {i}" for i in range(5)] + [f"good {i}" for i in range(5)], "label": [0] * 5 + [1] * 5}
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", columns, features)
    write_parquet(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", columns, features)
    data = datasets.Dataset.from_dict(columns, datasets.Features(features))
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    for folder, sizes in (("hub", (10, 10)), ("one", (8, 2)), ("two", (10, 10))):
        result = corpus(tmp_path / folder)
        assert (result.kind, result.classes, result.templates) == ("text", ("bad", "good"), ("{}",))
        assert (len(result.train), len(result.test)) == sizes
        texts = result.train.read(range(sizes[0]))
        assert [result.classes[label] for label in result.train.labels] == [text.split()[0] for text in texts]
    assert len(corpus(tmp_path / "hub", test="train").test) == 10


def test_a_data_set_on_disk_that_was_selected_from(tmp_path: Path):
    import datasets

    columns = {
        "image": [{"bytes": png(i % 2, i), "path": None} for i in range(12)],
        "label": [i % 2 for i in range(12)],
    }
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    datasets.Dataset.from_dict(columns, features).select([1, 3, 5, 7, 0, 2, 4, 6, 8, 10]).save_to_disk(tmp_path / "d")
    result = corpus(tmp_path / "d")
    assert [class_in(image) for image in result.train.read(range(8))] == result.train.labels.tolist()


# Readers and fingerprints.


def test_fingerprints_follow_contents(tmp_path: Path):
    text = corpus(text_csv(tmp_path / "a.csv")).train
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    image = corpus(folder, test=str(folder)).train
    for split in (text, image):
        assert split.fingerprint([0, 1]) == split.fingerprint([0, 1])
        assert len({split.fingerprint(at) for at in ([0], [1], [0, 1], [1, 0], [])}) == 5
    before = image.fingerprint([0]), image.fingerprint([1])
    (folder / "cat" / "0.png").write_bytes(b"not even an image")
    image = corpus(folder, test=str(folder)).train
    assert image.fingerprint([0]) != before[0], "contents are hashed, and nothing is decoded"
    assert image.fingerprint([1]) == before[1]


def test_fingerprints_tell_boundaries_apart(tmp_path: Path):
    one = write_csv(tmp_path / "1.csv", ("text", "label"), [("ab", "x"), ("c", "x")])
    two = write_csv(tmp_path / "2.csv", ("text", "label"), [("a", "x"), ("bc", "x")])
    result = [corpus(file, test=str(file)).train.fingerprint([0, 1]) for file in (one, two)]
    assert result[0] != result[1]


def test_what_reads_can_be_sent_to_other_processes(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    photos = write_csv(tmp_path / "list.csv", ("path", "label"), [("pets/cat/0.png", "cat")] * 5)
    parquet_file = write_parquet(tmp_path / "p" / "train.parquet", {"text": list("abcde"), "label": ["x"] * 5})
    for place in (folder, photos, parquet_file.parent, text_csv(tmp_path / "a.csv")):
        split = corpus(place).train
        read, fingerprint = pickle.loads(pickle.dumps((split.read, split.fingerprint)))
        assert read([1, 0]) == split.read([1, 0])
        assert fingerprint([1, 0]) == split.fingerprint([1, 0])


# Choices.


def test_more_samples_of_a_class_keep_the_earlier_ones(tmp_path: Path):
    file = text_csv(tmp_path / "a.csv", per_class=40)
    sets = [set(corpus(file, train_per_class=n, test_per_class=min(n, 3)).train.ids) for n in (1, 3, 10, 1000)]
    assert [len(ids) for ids in sets] == [3, 9, 30, 96]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    result = corpus(file, train_per_class=3, test_per_class=2)
    assert (result.train.label_counts(), result.test.label_counts()) == ({0: 3, 1: 3, 2: 3}, {0: 2, 1: 2, 2: 2})
    assert set(corpus(file, 1, train_per_class=3).train.ids) != set(corpus(file, 2, train_per_class=3).train.ids)


# What bad data gets.


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
