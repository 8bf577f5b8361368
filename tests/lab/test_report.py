"""The report: sentences that follow the numbers, a page that stands alone, files that are whole."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefmerge.errors import DataError, OutputError
from prefmerge.ground import atomic
from prefmerge.lab import figures, findings, report
from prefmerge.lab.results import Results, Score, Shown, TaskScores
from prefmerge.lab.statistics import Difference
from prefmerge.shown import marked
from tests.lab.made import KINDS, made, places, pools
from tests.report.pages import lawful

pytest.importorskip("matplotlib", reason="figures need the extra plot")

METHODS = ("Baseline", "MAGMAX", *KINDS.values(), "Search")
PAPER = {"environments": "cifar100-5", "ablation": "5", "supplement": "vit-b-16-laion400m", "column": "CIFAR100/5"}


@pytest.fixture(scope="module")
def whole() -> Results:
    return made(methods=METHODS, paper=PAPER)


@pytest.fixture(scope="module")
def written(whole: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report.write(whole, out)
    return out


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small figure in place of all."""

    def only(results: Results) -> list[figures.Picture]:
        found = figures.allotted(results)
        return [] if found is None else [found]

    monkeypatch.setattr(figures, "all_of", only)


class Page(HTMLParser):
    """Tags that are closed in order, and every attribute that could fetch something."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [str(found[key]) for key in ("href", "src") if key in found]
        self.ids += [str(found["id"])] if "id" in found else []
        if tag == "img":
            self.images.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_keeps_the_law_of_reports(written: Path):
    lawful((written / "report.html").read_text(encoding="utf-8"))


def test_the_page_stands_alone(written: Path):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    outside = [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.images) == len(list((written / "figures").iterdir())) == 8
    for image in page.images:
        assert base64.b64decode(str(image["src"]).partition(",")[2]).startswith(b"\x89PNG")
        assert str(image["alt"]).endswith(".")


@pytest.mark.usefixtures("quick")
def test_the_files(tmp_path: Path):
    paths = report.write(made(scales=("1",), methods=("MAGMAX", "Tunable (Label)")), tmp_path)
    assert paths[0] == tmp_path / "report.html"
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.name for path in paths if path.parent.name == "tables"} == {
        "environments-scale-1.csv",
        "differences-rival-scale-1.csv",
        "differences-ours-scale-1.csv",
        "similarities-accuracy.csv",
        "similarities-shares.csv",
        "diversity-scale-1.csv",
        "alpha.csv",
        "methods.csv",
        "places.csv",
        "scores.csv",
        "task-scores.csv",
        "shares.csv",
        "comparisons.csv",
        "figure-budgets.csv",
    }


def test_text_and_page_say_the_same(whole: Results, written: Path):
    text = (written / "report.md").read_text(encoding="utf-8")
    page = (written / "report.html").read_text(encoding="utf-8")
    for title in ("Target environments", "Paired differences", "Similarities", "Preference control", "Diversity"):
        assert f"\n## {title}\n" in text
        assert f"<h2>{title}</h2>" in page
    for sentence in findings.about_places(whole):
        assert marked(sentence) in text
        assert sentence in page
    for name in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (written / name).is_file()


@pytest.mark.usefixtures("quick")
def test_equal_results_give_equal_bytes(whole: Results, tmp_path: Path):
    report.write(whole, tmp_path / "a")
    for path in report.write(Results.from_json(whole.to_json()), tmp_path / "b"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes(), path.name


def test_raw_numbers_are_all_there(whole: Results, written: Path):
    rows = list(csv.DictReader(io.StringIO((written / "tables" / "scores.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(whole.scores)
    first = whole.scores[0]
    assert (rows[0]["method"], int(rows[0]["right"]), rows[0]["samples"]) == (first.method, first.right, first.samples)
    shares = list(csv.DictReader(io.StringIO((written / "tables" / "shares.csv").read_text(encoding="utf-8"))))
    assert len(shares) == len(whole.similarities) * len(whole.tasks)
    tasks = list(csv.DictReader(io.StringIO((written / "tables" / "task-scores.csv").read_text(encoding="utf-8"))))
    assert len(tasks) == len(whole.task_scores) * len(whole.tasks)
    pairs = list(csv.DictReader(io.StringIO((written / "tables" / "comparisons.csv").read_text(encoding="utf-8"))))
    keys = [(row["first"], row["second"], row["first scale"], row["second scale"], row["environment"]) for row in pairs]
    assert len(keys) == len(set(keys))


# Sentences


def compared(
    gaps: list[int], *, method: str = "Tunable (Label)", level: int = 9, seeds: tuple[int, ...] = (3,)
) -> Results:
    """MAGMAX and one other method at e1 to e5, one variant of 18 test samples; `gaps` are the differences in right."""
    main = places(3, size=20, variants=1)
    scores = tuple(
        Score("places", name, "1", seed, one.name, 0, level + gap, 18, one.digest)
        for one, other in zip(main, gaps, strict=True)
        for name, gap in (("MAGMAX", 0), (method, other))
        for seed in seeds
    )
    return Results("gaps", tuple(pool.name for pool in pools(3)), seeds, ("1",), environments=main, scores=scores)


@pytest.mark.parametrize(
    ("gaps", "sentence"),
    [
        (
            [2, 2, 3, 2, 2],
            "At scale 1, Tunable (Label) has a higher mean than MAGMAX in 5 of 5 environments. Over 5 targets the "
            "difference is +12.2 points, 95 % interval [9.1, 15.3]: ahead. By training: +12.2 (seed 3).",
        ),
        (
            [2, -2, 3, 0, 2],
            "At scale 1, Tunable (Label) has a higher mean than MAGMAX in 3 of 5 environments (not in e2, e4). Over 5 "
            "targets the difference is +5.6 points, 95 % interval [-8.2, 19.4]: no clear difference. By training: +5.6 "
            "(seed 3).",
        ),
        (
            [-2, -2, -3, -2, -2],
            "At scale 1, Tunable (Label) has a higher mean than MAGMAX in 0 of 5 environments. Over 5 targets the "
            "difference is -12.2 points, 95 % interval [-15.3, -9.1]: behind. By training: -12.2 (seed 3).",
        ),
    ],
)
def test_the_preference_against_magmax(gaps: list[int], sentence: str):
    assert findings.about_places(compared(gaps))[0] == sentence


def test_who_is_ahead_and_who_is_best():
    said = findings.about_places(compared([2, 2, 3, 2, 2]))
    assert said[1:] == [
        "At scale 1, against MAGMAX (by the 95 % interval over all targets): ahead: Tunable (Label).",
        "At scale 1, the highest average is 62.2 %: Tunable (Label).",
    ]
    behind = findings.about_places(compared([-2, -2, -3, -2, -2], method="Tunable (Label), carry 0.5"))
    assert behind == [
        "At scale 1, against MAGMAX (by the 95 % interval over all targets): behind: “Tunable (Label), carry 0.5”.",
        "At scale 1, the highest average is 50.0 %: MAGMAX.",
    ]


@pytest.mark.parametrize(
    ("gaps", "end"),
    [
        ([2, 2, 3, 2, 2], "it helps."),
        ([2, -2, 3, 0, -2], "it does not help, as far as these targets tell: the interval holds zero."),
        ([-2, -2, -3, -2, -2], "it does not help, it harms: the interval lies below zero."),
    ],
)
@pytest.mark.parametrize("method", ["Tunable (OT)", "Tunable (Cos)", "Tunable (MMD)"])
def test_where_a_similarity_does_not_help_is_said_plainly(method: str, gaps: list[int], end: str):
    (said,) = findings.about_similarities(compared(gaps, method=method))
    assert said.startswith(f"{method} at scale 1 minus MAGMAX: ")
    assert said.endswith(end)


def test_similarities_that_are_no_nearer_than_equal_shares():
    base = compared([0] * 5)
    shown = tuple(
        Shown(3, one.name, one.variant, kind, shares or one.truth(base.tasks), one.truth(base.tasks))
        for one in base.environments
        for kind, shares in (("label", None), ("ot", (1 / 3, 1 / 3, 1 / 3)))
    )
    # Equal shares of three are 10/30 from e1, 14/30 from e2, 1/30 from e3 (7, 7 and 6 of 20), 4/30 from e4 and 8/30
    # from e5: 0.247.
    assert findings.about_similarities(dataclasses.replace(base, similarities=shown))[-1] == (
        "Total variation to the target's own shares, where equal shares have 0.25: nearer: Label (0.00); no nearer: OT "
        "(0.25)."
    )


def with_alphas(first: list[int], last: list[int]) -> Results:
    rows = [
        TaskScores("alpha", "Tunable MAGMAX", "sequential", "1", 3, (a, 5, b), (10, 10, 10), alpha)
        for alpha, a, b in zip(("0.5", "1", "2"), first, last, strict=True)
    ]
    magmax = TaskScores("alpha", "MAGMAX", "sequential", "1", 3, (5, 5, 6), (10, 10, 10))
    return Results("", ("a", "b", "c"), (3,), ("1",), task_scores=(*rows, magmax))


def test_whether_alpha_controls_is_computed():
    assert findings.about_alpha(with_alphas([4, 5, 8], [7, 5, 4])) == [
        "At scale 1, as \N{GREEK SMALL LETTER ALPHA} goes 0.5, 1, 2, the first task's accuracy is 40.0, 50.0, 80.0 %: "
        "it rises at every step. At \N{GREEK SMALL LETTER ALPHA} = 2 that is +30.0 points from MAGMAX's 50.0 %.",
        "At scale 1, as \N{GREEK SMALL LETTER ALPHA} goes 0.5, 1, 2, the last task's accuracy is 70.0, 50.0, 40.0 %: "
        "it falls at every step. At \N{GREEK SMALL LETTER ALPHA} = 0.5 that is +10.0 points from MAGMAX's 60.0 %.",
    ]
    first, last = findings.about_alpha(with_alphas([4, 4, 8], [5, 7, 4]))
    assert "it does not rise from 0.5 to 1." in first  # standing still is no rise
    assert "it does not fall from 0.5 to 1." in last


def test_diversity_speaks_of_both_ends(whole: Results):
    said = findings.about_diversity(whole)
    assert [text.partition(",")[0] for text in said] == [
        "Tunable (Label) minus MAGMAX at scale 0.5",
        "Tunable (OT) minus MAGMAX at scale 0.5",
        "Tunable (Label) minus MAGMAX at scale 1",
        "Tunable (OT) minus MAGMAX at scale 1",
    ]
    assert re.fullmatch(r".*, in targets of 1 task: .* \(.*\); of 5 tasks: .* \(.*\)\.", said[0])


def test_one_place_has_no_verdict():
    assert findings.verdict(Difference(0.5, None, None, 1, 1, 0, 0)) == "one target, so no interval"


# What is missing, and how it was made


@pytest.mark.usefixtures("quick")
def test_what_is_missing_is_said(tmp_path: Path):
    whole = dataclasses.replace(
        made(seeds=(3,), scales=("1",), methods=("MAGMAX",), studies=("places",), size=100),
        missing=("seed 3, TIES: no memory", "seed 3, <Search>: stopped"),
    )
    report.write(whole, tmp_path)
    text, page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "2 results are missing." in text
    assert "- seed 3, TIES: no memory" in text
    assert "<li>seed 3, &lt;Search&gt;: stopped</li>" in page
    assert "There is one training: how much another would differ is not known." in text
    short = sum(bool(one.shortfall) for one in whole.environments)
    assert 0 < short < len(whole.environments)
    assert f"{short} of 25 targets have fewer samples than asked" in text


def test_nothing_is_missing(whole: Results):
    assert findings.about_missing(whole) == ["Nothing is missing."]


def test_how_it_was_made(written: Path):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "Trainings: 2 seeds (3, 4). Scales: 0.5, 1." in text
    assert "Versions: prefmerge 0.1.0, numpy 2.0, torch 2.8." in text
    assert "Commit: 0123abc." in text
    assert "```yaml\nseeds:\n- 3\n- 4\n" in text


@pytest.mark.usefixtures("quick")
def test_texts_of_the_user_are_escaped(tmp_path: Path):
    evil = "<script>alert(1)</script> & ```"
    whole = made(seeds=(3,), scales=("1",), methods=("MAGMAX",), studies=("alpha", "places"))
    report.write(
        dataclasses.replace(
            whole, title=evil, tasks=(evil, *whole.tasks[1:]), about={evil: evil, "recipe": {"a": evil}}
        ),
        tmp_path,
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; ```" in page
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("```") == 2  # of the recipe's own block


def test_results_without_anything(tmp_path: Path):
    paths = report.write(Results("empty", ("a", "b"), (3,), ("1",), missing=("all of it: not begun",)), tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md"]
    assert "1 result is missing." in paths[1].read_text(encoding="utf-8")


# Pictures from elsewhere, and what cannot be


def test_other_pictures_are_shown_and_copied(tmp_path: Path):
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    files = [tmp_path / "sign conflicts.png", tmp_path / "alpha.png"]
    for file in files:
        file.write_bytes(pixel)
    whole = made(seeds=(3,), scales=("1",), methods=("MAGMAX",), studies=("alpha",))
    report.write(whole, tmp_path / "out", files)
    folder = tmp_path / "out" / "figures"
    assert (folder / "sign conflicts.png").read_bytes() == pixel
    assert (folder / "extra-alpha.png").read_bytes() == pixel
    assert (folder / "alpha.png").read_bytes() != pixel
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "![Sign conflicts.](figures/sign%20conflicts.png)" in text


def test_pictures_that_cannot_be_shown(tmp_path: Path):
    empty = Results("empty", ("a",), (3,), ("1",))
    with pytest.raises(DataError, match=r"x\.svg: the report shows pictures in PNG or JPEG format, found '\.svg'\.$"):
        report.write(empty, tmp_path / "out", [tmp_path / "x.svg"])
    with pytest.raises(DataError, match=r"x\.png: the picture cannot be read: No such file or directory\.$"):
        report.write(empty, tmp_path / "out", [tmp_path / "x.png"])
    assert not (tmp_path / "out").exists()


def test_other_samples_are_refused_before_anything_is_written(whole: Results, tmp_path: Path):
    scores = (*whole.scores[:-1], dataclasses.replace(whole.scores[-1], samples="other"))
    with pytest.raises(DataError, match="Methods can be compared on the same samples only"):
        report.write(dataclasses.replace(whole, scores=scores), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/report\.html: the report cannot be written: (File exists|Not a dir)"):
        report.write(Results("empty", ("a",), (3,), ("1",)), tmp_path / "file")


def test_what_was_there_stays_whole_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    empty = Results("empty", ("a",), (3,), ("1",))
    report.write(empty, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(OutputError, match=r"report\.html: the report cannot be written: No space left .*\. Make room"):
        report.write(dataclasses.replace(empty, title="another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
