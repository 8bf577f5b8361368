"""The report of an experiment: report.md, report.html, a CSV file per table and a PNG file per figure.

    OUT/report.md, report.html, tables/*.csv, figures/*.png

report.html is one file: pictures inside, no script, nothing from elsewhere, readable in light and dark. tables/ has the
raw numbers too: scores.csv, task-scores.csv, shares.csv, comparisons.csv (with both kinds of interval). Each file is
written whole or not at all; equal results give equal bytes. Cost: about a second per figure. Not here: the sentences
(`findings`).
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefmerge.errors import DataError, OutputError
from prefmerge.ground import atomic
from prefmerge.ground.refused import remedy
from prefmerge.ground.words import counted
from prefmerge.lab import figure_tables, figures, findings, tables, target_tables
from prefmerge.lab.figures import Picture
from prefmerge.lab.results import SHARED, Results
from prefmerge.lab.statistics import StudyScores
from prefmerge.lab.table import Table
from prefmerge.lab.table_parts import scales_of
from prefmerge.lab.tables import OURS, RIVAL
from prefmerge.lab.target_tables import ADAPTED
from prefmerge.report import page as template
from prefmerge.report.markup import Html, tag, together
from prefmerge.report.parts import HINT, PageSection, code, details, listing, paragraph, section
from prefmerge.shown import cell, marked

LEAD = 3  # sentences before the first table of a chapter
WIDE = 900  # pixels of a picture's width that a phone cannot show
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Image:
    """A picture as a file: `name` with its suffix. `numbers`: what is drawn, as tables."""

    name: str
    caption: str
    data: bytes
    numbers: tuple[Table, ...] = ()

    @property
    def width(self) -> int:
        """In pixels, of a PNG; 0 of another format."""
        return int.from_bytes(self.data[16:20]) if self.data.startswith(b"\x89PNG") else 0


@dataclass(frozen=True)
class Chapter:
    title: str
    sentences: tuple[str, ...]
    parts: tuple[Table | Image, ...] = ()
    listed: tuple[str, ...] = ()
    code: str = ""

    @property
    def lead(self) -> tuple[str, ...]:
        """What stands before the first table; the other sentences stand below it."""
        return self.sentences[:LEAD]

    @property
    def rest(self) -> tuple[str, ...]:
        return self.sentences[LEAD:]


def write(
    results: Results,
    out: Path,
    figures_extra: Sequence[Path] = (),
    numbers: Mapping[str, tuple[Table, ...]] | None = None,
) -> list[Path]:
    """Write everything below `out` and return the files, report.html first.

    `figures_extra` are pictures (PNG, JPEG) made elsewhere, shown last and copied to figures/; `numbers`: what is drawn
    in them, by the stem of their name. Raises DataError where methods were scored on different samples or an extra
    picture cannot be read, OutputError where a file cannot be written, MissingExtra without matplotlib.
    """
    out = Path(out)
    images = _drawn(results, figures.all_of(results))
    taken = {one.name for one in images}
    extra = [_extra(path, taken, (numbers or {}).get(path.stem, ())) for path in map(Path, figures_extra)]
    chapters = _chapters(results, images, extra)
    shown = [part for chapter in chapters for part in chapter.parts]
    files = {
        "report.html": page(results, chapters).encode(),
        "report.md": markdown(results, chapters).encode(),
        **{f"tables/{part.name}.csv": part.csv().encode() for part in shown if isinstance(part, Table)},
        **{
            f"tables/{one.name}.csv": one.csv().encode()
            for part in shown
            if isinstance(part, Image)
            for one in part.numbers
        },
        **{f"tables/{name}.csv": text.encode() for name, text in raw(results).items()},
        **{f"figures/{part.name}": part.data for part in shown if isinstance(part, Image)},
    }
    paths = []
    for name, data in files.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_whole(path, data)
        except OSError as error:
            reason, way = error.strerror or error, remedy(error, "Choose another output.")
            raise OutputError(f"{path}: the report cannot be written: {reason}. {way}") from error
        paths.append(path)
    return paths


def _drawn(results: Results, pictures: Iterable[Picture]) -> list[Image]:
    behind = ((picture, figure_tables.behind(results, picture.name)) for picture in pictures)
    return [
        Image(f"{picture.name}.png", picture.caption, picture.drawn(), () if numbers is None else (numbers,))
        for picture, numbers in behind
    ]


def _extra(path: Path, taken: set[str], numbers: tuple[Table, ...]) -> Image:
    if path.suffix.lower() not in MEDIA:
        raise DataError(
            f"{path}: the report shows pictures in PNG or JPEG format, found {path.suffix or 'no suffix'!r}."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read: {error.strerror or error}.") from error
    name = path.name if path.name not in taken else f"extra-{path.name}"
    words = path.stem.replace("-", " ").replace("_", " ")
    return Image(name, words[:1].upper() + words[1:] + ".", data, numbers)


# The chapters


def _chapters(results: Results, images: Sequence[Image], extra: Sequence[Image]) -> list[Chapter]:
    by_name = {Path(one.name).stem: one for one in images}
    scores = StudyScores(results)
    scales: list[str | None] = list(scales_of(scores))
    every = [*scales, None] if len(scales) > 1 else scales

    def parts(*several: Table | Image | None) -> tuple[Table | Image, ...]:
        return tuple(part for part in several if part is not None)

    made = [
        Chapter(
            "Target environments",
            tuple(findings.about_places(results)),
            parts(
                *(tables.environments(results, scale) for scale in every),
                *(by_name.get(f"environments-scale-{scale}") for scale in scales),
            ),
        ),
        Chapter(
            "Adapted to the target",
            tuple(findings.about_adapt(results)),
            parts(
                target_tables.overview(results),
                *(tables.differences(results, scale, first=ADAPTED) for scale in every[-1:]),
                target_tables.estimates(results),
                target_tables.choices(results),
            ),
        ),
        Chapter(
            "Paired differences",
            (),
            parts(
                by_name.get("differences"),
                *(tables.differences(results, scale, second=RIVAL) for scale in every),
                *(tables.differences(results, scale, first=OURS) for scale in every),
            ),
        ),
        Chapter(
            "Similarities",
            tuple(findings.about_similarities(results)),
            parts(tables.ablation(results), tables.similarities(results), by_name.get("similarities")),
        ),
        Chapter(
            "Preference control",
            tuple(findings.about_alpha(results)),
            parts(tables.alpha(results), by_name.get("alpha"), by_name.get("budgets")),
        ),
        Chapter(
            "Diversity",
            tuple(findings.about_diversity(results)),
            parts(
                *(
                    tables.environments(results, scale, study="diversity")
                    for scale in scales_of(StudyScores(results, "diversity"))
                ),
                by_name.get("diversity"),
                tables.similarities(results, "diversity"),
            ),
        ),
        Chapter("All tasks", (), parts(tables.methods(results), by_name.get("tasks"))),
        Chapter("Task vectors", (), tuple(extra)),
    ]
    made = [one for one in made if one.sentences or one.parts]
    if not tables.by_alpha(results):  # the budgets alone are no result
        made = [one for one in made if one.title != "Preference control"]
    made.append(Chapter("What is missing", tuple(findings.about_missing(results)), listed=results.missing))
    made.append(_how(results))
    return made


def _how(results: Results) -> Chapter:
    said = [
        f"Tasks, in the order of training: {', '.join(results.tasks)}.",
        f"Trainings: {counted(len(results.seeds), 'seed')} ({', '.join(map(str, results.seeds))}). Scales: "
        f"{', '.join(results.scales)}.",
    ]
    for key, value in results.about.items():
        if key not in ("recipe", SHARED):
            said.append(f"{key.capitalize()}: {_flat(value)}.")
    recipe = results.about.get("recipe")
    if recipe is not None:
        said.append("The recipe stands below: `prefmerge bench recipe.yaml -o OUT` makes the same.")
    return Chapter(
        "How it was made",
        tuple(said),
        tuple(part for part in [tables.places(results)] if part is not None),
        code="" if recipe is None else recipe if isinstance(recipe, str) else _yaml(recipe),
    )


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(one)}" for key, one in value.items() if one is not None) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


# Files


def markdown(results: Results, chapters: Sequence[Chapter]) -> str:
    """The report for those who read text; figures by their path."""
    lines = [f"# {marked(results.title)}", ""]
    for chapter in chapters:
        lines += [f"## {chapter.title}", ""]
        lines += [f"{marked(sentence)}\n" for sentence in chapter.lead]
        blocks = [_in_markdown(part) for part in chapter.parts]
        rest = [f"{marked(sentence)}\n" for sentence in chapter.rest]
        lines += itertools.chain(*blocks[:1], rest, *blocks[1:])
        lines += [f"- {marked(text)}" for text in chapter.listed] + [""] * bool(chapter.listed)
        if chapter.code:
            lines += ["```yaml", chapter.code.rstrip().replace("```", "` ` `"), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _in_markdown(part: Table | Image) -> list[str]:
    if isinstance(part, Table):
        return [part.markdown()]
    files = ", ".join(f"[{one.name}.csv](tables/{quote(one.name)}.csv)" for one in part.numbers)
    behind = [f"The numbers: {files}", ""] if files else []
    return [f"![{marked(part.caption)}](figures/{quote(part.name)})", "", marked(part.caption), "", *behind]


def page(results: Results, chapters: Sequence[Chapter]) -> str:
    """The report as one file of HTML."""
    return template.page(results.title, map(_section, chapters), contents=True)


def _section(chapter: Chapter) -> PageSection:
    blocks = [part.html() if isinstance(part, Table) else _figure(part) for part in chapter.parts]
    lead, rest = ([paragraph(text) for text in texts] for texts in (chapter.lead, chapter.rest))
    listed = [listing(chapter.listed), *([code(chapter.code)] if chapter.code else [])]
    return section(chapter.title, *lead, *blocks[:1], *rest, *blocks[1:], *listed)


def _figure(image: Image) -> Html:
    kind = MEDIA[Path(image.name).suffix.lower()]
    data = base64.b64encode(image.data).decode()
    picture = tag("img", alt=image.caption, src=Html(f"data:{kind};base64,{data}"))
    shown = tag("div", picture, class_="scroll", tabindex="0")
    wide = "wide" if image.width > WIDE else None
    figure = tag("figure", shown, tag("p", HINT, class_="hint"), tag("figcaption", image.caption), class_=wide)
    behind = details("The numbers", *(one.html() for one in image.numbers)) if image.numbers else Html()
    return together(figure, behind)


def raw(results: Results) -> dict[str, str]:
    """The unrounded numbers as CSV, by stem: scores, task-scores, shares, comparisons."""
    tasks = list(results.tasks)
    scores = [
        [
            one.study,
            one.method,
            one.scale,
            one.seed,
            one.environment,
            one.variant,
            one.right,
            one.n,
            one.accuracy,
            one.samples,
            one.chosen or "",
            *(one.shares or [""] * len(tasks)),
        ]
        for one in results.scores
    ]
    on_tasks = [
        [one.study, one.method, one.training, one.scale, one.seed, one.alpha or "", name, right, n, right / n]
        for one in results.task_scores
        for name, right, n in zip(tasks, one.right, one.n, strict=True)
    ]
    shares = [
        [one.seed, one.environment, one.variant, one.kind, name, share, truth]
        for one in results.similarities
        for name, share, truth in zip(tasks, one.shares, one.truth, strict=True)
    ]
    every: list[str | None] = [*scales_of(StudyScores(results)), None]
    pairs = [pair for scale in every for pair in tables.comparisons(results, scale)]
    pairs += [pair for scale in every for pair in tables.comparisons(results, scale, first=OURS)]
    once = {(one.first, one.second, one.scales): one for one in pairs}
    where = ["study", "method", "scale", "seed", "environment", "variant"]
    written = {
        "scores": (
            [*where, "right", "n", "accuracy", "samples", "chosen", *(f"share of {name}" for name in tasks)],
            scores,
        ),
        "task-scores": (
            ["study", "method", "training", "scale", "seed", "alpha", "task", "right", "n", "accuracy"],
            on_tasks,
        ),
        "shares": (["seed", "environment", "variant", "similarity", "task", "share", "share of the target"], shares),
    }
    texts = {name: _csv(header, rows) for name, (header, rows) in written.items() if rows}
    return {**texts, "comparisons": tables.comparison_rows(once.values()).csv()} if pairs else texts


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(cell, header))
    writer.writerows([cell(value) if isinstance(value, str) else value for value in row] for row in rows)
    return file.getvalue()
