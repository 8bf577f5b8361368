"""The report of an experiment: report.md, report.html, a CSV file per table and a PNG file per figure.

    OUT/report.md, report.html, tables/*.csv, figures/*.png

Every sentence about a result is computed from the results, here; tables and figures say the rest. report.html is one
file: pictures inside, no script, nothing from elsewhere, readable in light and dark. tables/ has the raw numbers too:
scores.csv, task-scores.csv, shares.csv, comparisons.csv (with both kinds of interval). Each file is written whole or
not at all; equal results give equal bytes. Cost: about a second per figure. Leaves out: opinions.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefmerge.errors import DataError, OutputError
from prefmerge.ground import atomic
from prefmerge.ground.words import counted
from prefmerge.lab import figures, tables
from prefmerge.lab.figures import Picture
from prefmerge.lab.results import Results, TaskScores
from prefmerge.lab.statistics import Comparison, Difference, Scores, by_alpha, compare, over_tasks
from prefmerge.lab.tables import ALPHA, OURS, RIVAL, Table, percent, points, scales_of

MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
UNLABELLED = tuple(f"Tunable ({tables.KINDS[kind]})" for kind in ("ot", "cosine", "mmd"))


@dataclass(frozen=True)
class Image:
    """A picture as a file: `name` with its suffix."""

    name: str
    caption: str
    data: bytes


@dataclass(frozen=True)
class Section:
    title: str
    sentences: tuple[str, ...]
    parts: tuple[Table | Image, ...] = ()
    listed: tuple[str, ...] = ()
    code: str = ""

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


def write(results: Results, out: Path, figures_extra: Sequence[Path] = ()) -> list[Path]:
    """Write everything below `out` and return the files, report.html first.

    `figures_extra` are pictures (PNG, JPEG) made elsewhere, shown last and copied to figures/. Raises DataError where
    methods were scored on different samples or an extra picture cannot be read, OutputError where a file cannot be
    written, MissingExtra without matplotlib.
    """
    out = Path(out)
    images = _drawn(figures.all_of(results))
    extra = [_extra(Path(path), {one.name for one in images}) for path in figures_extra]
    sections = _sections(results, images, extra)
    shown = [part for section in sections for part in section.parts]
    files = {
        "report.html": page(results, sections).encode(),
        "report.md": markdown(results, sections).encode(),
        **{f"tables/{part.name}.csv": part.csv().encode() for part in shown if isinstance(part, Table)},
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
            raise OutputError(f"{path}: the report cannot be written: {error.strerror or error}.") from error
        paths.append(path)
    return paths


def _drawn(pictures: Iterable[Picture]) -> list[Image]:
    images = []
    with tempfile.TemporaryDirectory() as folder:
        for picture in pictures:
            file = Path(folder) / f"{picture.name}.png"
            picture.save(file)
            images.append(Image(file.name, picture.caption, file.read_bytes()))
    return images


def _extra(path: Path, taken: set[str]) -> Image:
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
    return Image(name, words[:1].upper() + words[1:] + ".", data)


# What the results say


def verdict(part: Difference) -> str:
    """What an interval of a difference allows to say of the first method."""
    if part.interval is None:
        return "one place, so no interval"
    return ("not told apart", "ahead", "behind")[part.verdict]


def _interval(part: Difference) -> str:
    if part.interval is None:
        return f"{points(part.mean)} points"
    low, high = (points(end).lstrip("+") for end in part.interval)
    return f"{points(part.mean)} points, 95 % interval [{low}, {high}]"


def _against(found: Comparison, where: str) -> str:
    """`At scale 1, A has a higher mean than B in 4 of 5 environments (not in e4). Over 25 places: ...`"""
    up = [name for name, part in found.environments.items() if part.mean > 0]
    rest = [name for name in found.environments if name not in up]
    but = f" (not in {', '.join(rest)})" if rest and up else ""
    seeds = ", ".join(f"{points(value)} (seed {seed})" for seed, value in found.per_seed.items())
    lacking = f" {counted(len(found.missing), 'group')} of pairs could not be made; the table lists them." * bool(
        found.missing
    )
    return (
        f"{where}, {found.first} has a higher mean than {found.second} in {len(up)} of {len(found.environments)} "
        f"environments{but}. Over {counted(found.overall.places, 'place')} the difference is "
        f"{_interval(found.overall)}: {verdict(found.overall)}. By training: {seeds}.{lacking}"
    )


def about_places(results: Results) -> list[str]:
    """The preference against MAGMAX at each scale and at each method's best, and who is best."""
    scores = Scores(results)
    said = []
    scales: list[str | None] = list(scales_of(scores))
    for scale in [*scales, None] if len(scales) > 1 else scales:
        where = f"At scale {scale}" if scale is not None else "Each at its best scale (chosen on the test samples)"
        found = {one.first: one for one in tables.comparisons(results, scale)}
        if OURS in found:
            said.append(_against(found[OURS], where))
        groups = {
            "ahead": [name for name, one in found.items() if one.overall.verdict > 0],
            "not told apart": [name for name, one in found.items() if one.overall.verdict == 0],
            "behind": [name for name, one in found.items() if one.overall.verdict < 0],
        }
        if found:
            listed = "; ".join(f"{word}: {_several(names)}" for word, names in groups.items() if names)
            said.append(f"{where}, against {RIVAL} (by the 95 % interval over all places): {listed}.")
        averages = {
            name: mean.value
            for name in tables.in_order(scores.methods)
            if (at := scores.best_scale(name) if scale is None else scale) is not None
            and (mean := scores.average(name, at)) is not None
            and len(mean.seeds) == len(results.seeds)
        }
        if len(averages) > 1:
            top = max(averages.values())
            best = [name for name, value in averages.items() if value == top]
            among = " among methods with all scores" * (len(averages) < len(scores.methods))
            said.append(f"{where}, the highest average{among} is {percent(top)} %: {_several(best)}.")
    return said


def _several(names: Sequence[str]) -> str:
    """Joined by semicolons where a name has a comma."""
    return (" and " if len(names) == 2 else ", ").join(f"“{name}”" if "," in name else name for name in names)


def about_similarities(results: Results) -> list[str]:
    """For each similarity that sees no labels: whether its preference helps, and how near its shares are."""
    scores = Scores(results)
    said = []
    for method in UNLABELLED:
        for scale in scales_of(scores):
            found = compare(scores, method, RIVAL, scale)
            if found is None:
                continue
            word = {
                1: "it helps",
                0: "it does not help, as far as these places tell: the interval holds zero"
                if found.overall.interval
                else "one place, so no interval",
                -1: "it does not help, it harms: the interval lies below zero",
            }[found.overall.verdict]
            said.append(f"{method} at scale {scale} minus {RIVAL}: {_interval(found.overall)}; {word}.")
    table = tables.similarities(results)
    if table is not None:
        at = table.header.index("Average")
        distances = [
            (row[0].text, float(row[at].text.split()[0])) for row in table.rows if row[at].text != tables.MISSING
        ]
        *kinds, (_, equal) = distances
        near = [f"{name} ({value:.2f})" for name, value in kinds if value < equal]
        far = [f"{name} ({value:.2f})" for name, value in kinds if value >= equal]
        said.append(
            f"Total variation to the place's own shares, where equal shares have {equal:.2f}: "
            + "; ".join(
                part
                for part in (f"nearer: {', '.join(near)}" * bool(near), f"no nearer: {', '.join(far)}" * bool(far))
                if part
            )
            + "."
        )
    return said


def about_alpha(results: Results) -> list[str]:
    """Whether the first task rises and the last falls as alpha grows, and both beside MAGMAX."""
    return [
        line
        for scale, alphas in by_alpha(results).items()
        for line in (_course(scale, alphas, "first", 0, "rise", 1), _course(scale, alphas, "last", -1, "fall", -1))
        if line
    ]


def _course(
    scale: str, alphas: Mapping[str | None, Sequence[TaskScores]], name: str, at: int, verb: str, sign: int
) -> str:
    """One task's accuracy along alpha; `sign` is the direction that it should take."""

    def of(value: str | None) -> float:
        mean = over_tasks(alphas[value], lambda one: one.accuracies[at])
        assert mean is not None
        return mean.value

    given = [value for value in alphas if value is not None]
    if len(given) < 2:
        return ""
    values = {value: of(value) for value in given}
    wrong = [f"{a} to {b}" for a, b in itertools.pairwise(given) if (values[b] - values[a]) * sign <= 0]
    how = f"it does not {verb} from {', '.join(wrong)}" if wrong else f"it {verb}s at every step"
    course = ", ".join(map(percent, values.values()))
    line = f"At scale {scale}, as {ALPHA} goes {', '.join(given)}, the {name} task's accuracy is {course} %: {how}."
    if None in alphas:
        end = given[-1] if sign > 0 else given[0]
        gap, rival = points(values[end] - of(None)), percent(of(None))
        line += f" At {ALPHA} = {end} that is {gap} points from {RIVAL}'s {rival} %."
    return line


def about_diversity(results: Results) -> list[str]:
    """The preference against MAGMAX in the least and in the most mixed places."""
    scores = Scores(results, "diversity")
    counts = {one.name: len(one.parts) for one in results.environments}
    names = sorted((name for name in scores.environments if name in counts), key=lambda name: counts[name])
    said = []
    for scale in scales_of(scores):
        for method in (OURS, "Tunable (OT)"):
            found = compare(scores, method, RIVAL, scale)
            if found is None or len(names) < 2:
                continue
            ends = [
                f"{counted(counts[name], 'task')}: {_interval(part)} ({verdict(part)})"
                for name in (names[0], names[-1])
                if (part := found.environments.get(name)) is not None
            ]
            said.append(f"{method} minus {RIVAL} at scale {scale}, in places of {'; of '.join(ends)}.")
    return said


def about_missing(results: Results) -> list[str]:
    short = [one for one in results.environments if one.shortfall]
    said = []
    if short:
        said.append(
            f"{len(short)} of {len(results.environments)} places have fewer samples than asked, so their ratios are "
            "not quite those of their name."
        )
    if len(results.seeds) == 1:
        said.append("There is one training: how much another would differ cannot be told.")
    count = len(results.missing)
    said.append(
        f"{counted(count, 'result')} {'is' if count == 1 else 'are'} missing." if count else "Nothing is missing."
    )
    return said


# The sections


def _sections(results: Results, images: Sequence[Image], extra: Sequence[Image]) -> list[Section]:
    by_name = {Path(one.name).stem: one for one in images}
    scores = Scores(results)
    scales: list[str | None] = list(scales_of(scores))
    every = [*scales, None] if len(scales) > 1 else scales

    def parts(*several: Table | Image | None) -> tuple[Table | Image, ...]:
        return tuple(part for part in several if part is not None)

    made = [
        Section(
            "Target environments",
            tuple(about_places(results)),
            parts(
                *(tables.environments(results, scale) for scale in every),
                *(by_name.get(f"environments-scale-{scale}") for scale in scales),
            ),
        ),
        Section(
            "Paired differences",
            (),
            parts(
                by_name.get("differences"),
                *(tables.differences(results, scale, second=RIVAL) for scale in every),
                *(tables.differences(results, scale, first=OURS) for scale in every),
            ),
        ),
        Section(
            "Similarities",
            tuple(about_similarities(results)),
            parts(tables.ablation(results), tables.similarities(results), by_name.get("similarities")),
        ),
        Section(
            "Preference control",
            tuple(about_alpha(results)),
            parts(tables.alpha(results), by_name.get("alpha"), by_name.get("budgets")),
        ),
        Section(
            "Diversity",
            tuple(about_diversity(results)),
            parts(
                *(
                    tables.environments(results, scale, study="diversity")
                    for scale in scales_of(Scores(results, "diversity"))
                ),
                by_name.get("diversity"),
                tables.similarities(results, "diversity"),
            ),
        ),
        Section("All tasks", (), parts(tables.methods(results), by_name.get("tasks"))),
        Section("Task vectors", (), tuple(extra)),
    ]
    made = [one for one in made if one.sentences or one.parts]
    if not tables.by_alpha(results):  # the budgets alone are no result
        made = [one for one in made if one.title != "Preference control"]
    made.append(Section("What is missing", tuple(about_missing(results)), listed=results.missing))
    made.append(_how(results))
    return made


def _how(results: Results) -> Section:
    said = [
        f"Tasks, in the order of training: {', '.join(results.tasks)}.",
        f"Trainings: {counted(len(results.seeds), 'seed')} ({', '.join(map(str, results.seeds))}). Scales: "
        f"{', '.join(results.scales)}.",
    ]
    for key, value in results.about.items():
        if key != "recipe":
            said.append(f"{key.capitalize()}: {_flat(value)}.")
    recipe = results.about.get("recipe")
    return Section(
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


def markdown(results: Results, sections: Sequence[Section]) -> str:
    """The report for those who read text; figures by their path."""
    lines = [f"# {tables.marked(results.title)}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [f"{tables.marked(sentence)}\n" for sentence in section.sentences]
        for part in section.parts:
            if isinstance(part, Table):
                lines += [part.markdown()]
            else:
                lines += [f"![{tables.marked(part.caption)}](figures/{quote(part.name)})", ""]
                lines += [tables.marked(part.caption), ""]
        lines += [f"- {tables.marked(text)}" for text in section.listed] + [""] * bool(section.listed)
        if section.code:
            lines += ["```yaml", section.code.rstrip().replace("```", "` ` `"), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d0d0d0; --faint: #5b5b5b; --band: #f4f4f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --line: #3d4147; --faint: #a4a8ae; --band: #1f2226; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 84rem; padding: 1rem 1.25rem 4rem; }
h1, h2 { line-height: 1.2; } h2 { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.5rem; }
p, li { max-width: 50rem; } a { color: inherit; }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin-top: 1.75rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 0.95rem; padding-bottom: 0.4rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; }
th.w, td.w { text-align: left; } tbody th { font-weight: 400; }
thead th { border-bottom: 2px solid var(--line); } tbody tr:nth-child(even) { background: var(--band); }
td.long { white-space: normal; min-width: 16rem; }
tbody th { position: sticky; left: 0; background: var(--paper); }
tbody tr:nth-child(even) th { background: var(--band); }
.notes { color: var(--faint); font-size: 0.85rem; padding-left: 1.2rem; }
figure { margin: 1.75rem 0; } figure img { background: #fff; max-width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 0.9rem; max-width: 50rem; }
pre { background: var(--band); overflow-x: auto; padding: 0.75rem; font-size: 0.8rem; }
"""


def page(results: Results, sections: Sequence[Section]) -> str:
    """The report as one file of HTML."""
    title = html.escape(results.title)
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">",
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        '<nav aria-label="Contents"><ul>',
        *(f'<li><a href="#{one.anchor}">{html.escape(one.title)}</a></li>' for one in sections),
        "</ul></nav><main>",
    ]
    for section in sections:
        lines.append(f'<section id="{section.anchor}"><h2>{html.escape(section.title)}</h2>')
        lines += [f"<p>{html.escape(sentence)}</p>" for sentence in section.sentences]
        lines += [part.html() if isinstance(part, Table) else _figure(part) for part in section.parts]
        if section.listed:
            lines += ["<ul>", *(f"<li>{html.escape(text)}</li>" for text in section.listed), "</ul>"]
        if section.code:
            lines.append(f"<pre>{html.escape(section.code)}</pre>")
        lines.append("</section>")
    return "\n".join([*lines, "</main></body></html>"]) + "\n"


def _figure(image: Image) -> str:
    kind = MEDIA[Path(image.name).suffix.lower()]
    caption = html.escape(image.caption)
    data = base64.b64encode(image.data).decode()
    return f'<figure><img alt="{caption}" src="data:{kind};base64,{data}"><figcaption>{caption}</figcaption></figure>'


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
    every: list[str | None] = [*scales_of(Scores(results)), None]
    pairs = [pair for scale in every for pair in tables.comparisons(results, scale)]
    pairs += [pair for scale in every for pair in tables.comparisons(results, scale, first=OURS)]
    once = {(one.first, one.second, one.scales): one for one in pairs}
    where = ["study", "method", "scale", "seed", "environment", "variant"]
    found = {
        "scores": (
            [*where, "right", "n", "accuracy", "samples", "chosen", *(f"share of {name}" for name in tasks)],
            scores,
        ),
        "task-scores": (
            ["study", "method", "training", "scale", "seed", "alpha", "task", "right", "n", "accuracy"],
            on_tasks,
        ),
        "shares": (["seed", "environment", "variant", "similarity", "task", "share", "share of the place"], shares),
    }
    texts = {name: _csv(header, rows) for name, (header, rows) in found.items() if rows}
    return {**texts, "comparisons": tables.comparison_rows(once.values()).csv()} if pairs else texts


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
