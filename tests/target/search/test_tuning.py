"""The search itself, over merges that cost nothing: where it begins and ends, who is chosen, what a kill does."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.errors import DataError, MissingExtra, RunError, UsageError
from prefmerge.preference import Preference
from prefmerge.target.search import SearchResult, Space, Trial, tune
from prefmerge.target.search.result import FINALISTS, Accuracy
from prefmerge.target.search.trial import as_json
from tests.forks import begun
from tests.target.search.stubs import FIRST, LABELS, NAMES, SAMPLES, TARGET, Merges, Score, searched

pytest.importorskip("optuna", reason="search needs the extra search")


def told(found: SearchResult) -> list[Any]:
    return [(one.what, as_json(one.settings), one.right.tolist()) for one in found.trials]


def test_it_begins_with_the_given_preference_and_magmax_at_both_scales():
    found = searched(trials=4)
    paper = {"method": "tunable_magmax", "preference": FIRST, "selection": "paper", "importance": "magnitude"}
    assert [(one.what, one.settings) for one in found.trials] == [
        ("label preference, scale 0.5", {**paper, "scale": "0.5"}),
        ("label preference, scale 1", {**paper, "scale": "1"}),
        ("MAGMAX, scale 0.5", {**paper, "strength": "0", "scale": "0.5"}),
        ("MAGMAX, scale 1", {**paper, "strength": "0", "scale": "1"}),
    ]
    assert found.stopped == "4 trials"
    assert searched(trials=1, first=None).trials[0].what == "equal shares, scale 0.5"


def test_it_finds_what_is_better_and_the_held_out_part_shows_it():
    found = searched(trials=80, patience=25)
    assert found.preference is not None
    shares = np.array([float(share) for share in found.preference.shares(NAMES)])
    assert np.abs(shares - TARGET).sum() / 2 < 0.15  # FIRST is 0.3 away
    assert found.search_accuracy(found.best).right > max(found.search_accuracy(one).right for one in found.trials[:4])
    first, best = (found.held_out_accuracy(one) for one in (found.first, found.best))
    assert first is not None
    assert best is not None
    assert best.right > first.right
    assert best.n == 36
    assert found.search_accuracy(found.best).n == 84


def test_several_candidates_are_merged_in_one_reading_and_equal_ones_once():
    merges = Merges()
    found = searched(merges=merges, trials=10, batch=4)
    assert merges.readings == [4, 4, 2]
    assert len(found.trials) == 10
    score, few = Score(), Space(("selection", "importance"))
    tune(merges, score, LABELS, space=few, trials=12)
    assert score.asked <= 5  # two choices by two, and MAGMAX
    assert score.asked < 12


def test_patience_counts_trials_after_the_best_one():
    best_at = 6

    class Falling(Score):
        def __call__(self, weights: Any) -> np.ndarray:
            right = np.zeros(SAMPLES, bool)
            right[: SAMPLES // 2 if self.asked != best_at else SAMPLES] = True
            self.asked += 1
            return right

    for batch, expected in ((1, best_at + 1 + 10), (4, 20)):  # a batch is made to its end
        found = searched(Falling(), trials=50, patience=10, batch=batch)
        assert len(found.trials) == expected
        assert found.stopped == "10 trials without improvement"
        assert found.best.number == best_at
    flat = searched(lambda weights: np.ones(SAMPLES, bool), trials=50, patience=3, batch=1)
    assert len(flat.trials) == 4 + 3  # those to begin with are not counted
    assert flat.best.number == 0
    assert flat.verdict == (
        "Nothing that was tried does better than the label preference, scale 0.5 on the 36 held-out samples."
    )


def test_the_same_seed_gives_the_same_trials_and_another_gives_others():
    one, same, other = (searched(trials=14, seed=seed) for seed in (1, 1, 2))
    assert told(one) == told(same)
    assert told(one)[4:] != told(other)[4:]
    assert one.searching.tolist() != other.searching.tolist()


def killed(study: Path, when: int) -> None:
    def at(asked: int) -> None:
        if asked == when:
            os.kill(os.getpid(), signal.SIGKILL)

    searched(Score(at=at), trials=18, study=study)


def test_a_killed_search_goes_on_as_if_nothing_had_been(tmp_path: Path):
    whole = searched(trials=18)
    file = tmp_path / "study.journal"
    for at in (10, 3):  # in the middle of a batch, then, going on, of the next but one
        process = begun(killed, file, at)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    score = Score()
    found = searched(score, trials=18, study=file)
    assert told(found) == told(whole)
    assert score.asked == 18 - 10 - 3
    again = Score()
    assert told(searched(again, trials=18, study=file)) == told(whole)
    assert again.asked == 0
    longer = searched(again, trials=21, study=file)
    assert told(longer)[:18] == told(whole)
    assert told(longer) == told(searched(trials=21))


def test_a_batch_that_was_interrupted_is_made_to_its_end(tmp_path: Path):
    class Flat(Score):
        def __call__(self, weights: Any) -> np.ndarray:
            super().__call__(weights)
            return np.ones(SAMPLES, bool)

    def stop(asked: int) -> None:
        if asked == 7:  # patience has run out, the batch has not
            raise KeyboardInterrupt

    whole = searched(Flat(), patience=3)
    assert len(whole.trials) == 8
    with pytest.raises(KeyboardInterrupt):
        searched(Flat(at=stop), patience=3, study=tmp_path / "study.journal")
    assert told(searched(Flat(), patience=3, study=tmp_path / "study.journal")) == told(whole)


@pytest.mark.parametrize("lost", [1, 30, 400])
def test_a_torn_last_line_is_survived(tmp_path: Path, lost: int):
    file = tmp_path / "study.journal"
    whole = searched(trials=9, study=file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines)[:-lost])
    score = Score()
    found = searched(score, trials=9, study=file)
    assert told(found) == told(whole)
    assert score.asked == 1
    assert all(json.loads(line) for line in file.read_bytes().splitlines())
    for count in range(len(lines) - 9):  # torn before the first trial, and before there was a study
        file.write_bytes(b"".join(lines[:count]) + lines[count][:-5])
        assert told(searched(trials=9, study=file)) == told(whole)


def test_a_search_of_other_data_or_settings_is_refused(tmp_path: Path):
    file = tmp_path / "found" / "study.journal"
    file.parent.mkdir()
    searched(trials=2, study=file, about={"head": "a"})
    searched(trials=3, patience=5, study=file, about={"head": "a"})  # how long it goes on decides no trial
    with pytest.raises(RunError) as raised:
        searched(trials=2, study=file, about={"head": "b"}, seed=3)
    assert str(raised.value) == (
        f'{file.parent}: holds another search: head was "a", is "b"; seed was 0, is 3. Give another -o OUT, or --force '
        "to start it again from nothing."
    )
    others: tuple[dict[str, Any], ...] = (
        {"batch": 3},
        {"held_out": 0.2},
        {"first": None},
        {"space": Space(("scale",))},
    )
    for changed in others:
        with pytest.raises(RunError, match=f"holds another search: {next(iter(changed))} was "):
            searched(trials=2, study=file, about={"head": "a"}, **changed)
    with pytest.raises(RunError, match="holds another search: samples was "):
        tune(Merges(), Score(), LABELS[::-1], first=FIRST, study=file, about={"head": "a"})


def test_a_damaged_study_is_refused(tmp_path: Path):
    file = tmp_path / "study.journal"
    searched(trials=5, study=file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b"not json\n", *lines[3:]]))
    with pytest.raises(RunError, match=r"study\.journal: is damaged: .*\. Start the search again with --force\.$"):
        searched(trials=5, study=file)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            b'"start": true',
            b'"start": 1',
            r"trial 1 is damaged: key 'start': Input should be a valid boolean, found 1\.",
        ),
        (b'"what"', b'"that"', r"trial 1 is damaged: key 'what': Field required"),
        (
            b'"right": "',
            b'"right": "ff',
            r"trial 1 is damaged: key 'right': expected the answers to 120 samples, found 16",
        ),
    ],
)
def test_a_trial_that_cannot_be_read_names_its_key(tmp_path: Path, before: bytes, after: bytes, told: str):
    file = tmp_path / "study.journal"
    searched(trials=2, study=file)
    content = file.read_bytes().replace(b'":', b'": ').replace(b'":  ', b'": ')
    assert before in content
    file.write_bytes(content.replace(before, after))
    with pytest.raises(RunError, match=rf"study\.journal: {told}.*Start the search again with --force\.$"):
        searched(trials=2, study=file)


def trial(number: int, search: int, held: int, start: bool = False, scale: str | None = None) -> Trial:
    """Right on the first `search` of 70 samples that rank and on the first `held` of 30 that do not."""
    right = np.concatenate([np.arange(70) < search, np.arange(30) < held])
    return Trial(number, f"trial {number + 1}", {"scale": scale or str(number)}, right, start)


def result(*trials: Trial) -> SearchResult:
    return SearchResult(NAMES, trials, np.arange(100) < 70, Space(), "3 trials")


def test_who_is_best_by_luck_on_the_search_part_is_not_chosen():
    starts = trial(0, 40, 20, start=True), trial(1, 38, 19, start=True)
    lucky, sound = trial(2, 60, 15), trial(3, 50, 24)
    found = result(*starts, lucky, sound)
    assert found.best is sound
    assert found.finalists == [*starts, lucky, sound]
    assert result(*starts, lucky).best is starts[0]
    assert result(*starts, lucky, trial(3, 50, 20)).best is starts[0]  # a tie goes to what was begun with
    assert result(*starts, trial(2, 60, 24), sound).best.number == 2  # then to the better one on the search part
    assert result(*starts, trial(2, 50, 24), sound).best.number == 2  # then to the earlier one
    assert result(*starts, trial(2, 39, 30), sound).best is sound  # worse than a start where it was looked for
    many = [trial(2 + i, 60 - i, 24 + i) for i in range(FINALISTS + 1)]
    assert result(*starts, *many).best is many[FINALISTS - 1]  # the sixth is no finalist
    twice = trial(2, 60, 24, scale="3"), trial(3, 60, 24, scale="3")
    assert result(*starts, *twice).finalists == [*starts, twice[0]]


def test_without_a_held_out_part_the_search_part_chooses_and_it_says_so():
    found = searched(trials=16, held_out=0)
    most = max(found.search_accuracy(one).right for one in found.trials)
    assert found.search_accuracy(found.best).right == most
    assert found.held_out_accuracy(found.best) is None
    assert found.verdict == "No samples were held out, so nothing says how much of this is luck."
    assert found.to_json()["p"] is None


def test_the_verdict_says_whether_the_samples_support_a_difference():
    starts = (trial(0, 40, 10, start=True),)
    assert result(*starts, trial(1, 60, 20)).verdict == (
        "20 of 30 held-out samples are right; with the trial 1 10 are: a difference (p = 0.002)."
    )
    assert result(*starts, trial(1, 60, 13)).verdict == (
        "13 of 30 held-out samples are right; with the trial 1 10 are. That does not support a difference (p = 0.25): "
        "the trial 1 may do as well. More labelled samples would show it."
    )


def test_accuracies_come_with_wilsons_interval():
    assert str(Accuracy(24, 30)) == "80.0 % (24 of 30; 95 %: 62.7 to 90.5 %)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials is 0; expected a whole number of at least 1."),
        ({"patience": 0}, "patience is 0; expected a whole number of at least 1."),
        ({"batch": -1}, "batch is -1; expected a whole number of at least 1."),
        ({"held_out": 1.0}, "held-out is 1; expected a fraction from 0 to 0.9, such as 0.3."),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str):
    with pytest.raises(UsageError) as raised:
        searched(**settings)
    assert str(raised.value) == message


def test_too_few_samples():
    with pytest.raises(DataError) as raised:
        tune(Merges(), Score(), [0] * 9)
    assert str(raised.value) == "9 samples with labels are too few to search with. Give at least 10."


def test_without_optuna_the_message_is_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"^search needs an optional dependency\. .*'prefmerge\[search\]'$"):
        searched(trials=1)


def test_optuna_neither_logs_nor_warns_nor_stays_silent_afterwards(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    import optuna

    before = optuna.logging.get_verbosity()
    searched(trials=14, study=tmp_path / "study.journal")
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_optuna_reads_the_file(tmp_path: Path):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    file = tmp_path / "study.journal"
    found = searched(trials=14, study=file)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    study = optuna.load_study(study_name="prefmerge-search", storage=storage)
    assert len(study.trials) == 14
    assert study.best_value == max(found.search_accuracy(one).share for one in found.trials)


def test_progress_tells_every_trial():
    seen: list[tuple[int, int, int]] = []
    found = searched(trials=6, progress=lambda trial, best, done, most: seen.append((trial.number, done, most)))
    assert seen == [(i, i + 1, 6) for i in range(6)]
    assert len(found.trials) == 6


def test_the_result_as_json_as_a_preference_and_as_a_command(tmp_path: Path):
    found = searched(trials=30)
    data = json.loads(json.dumps(found.to_json()))
    assert data["best"]["number"] == found.best.number
    assert len(data["trials"]) == len(found.trials)
    assert data["samples"] == {"search": 84, "held_out": 36}
    assert data["best"]["held_out"]["interval"][0] < data["best"]["held_out"]["accuracy"]
    (tmp_path / "preference.json").write_text(json.dumps(found.preference_json()))
    assert Preference.load(tmp_path / "preference.json") == found.preference
    line = found.command(["--run", "my run"], "found/preference.json")
    start = "prefmerge merge --run 'my run' -o merged/ --prefer @found/preference.json "
    assert line.startswith(f"{start}--selection paper --importance magnitude --scale ")
    assert all(f"--{name} {found.settings[name]}" in line for name in ("strength", "carry") if name in found.settings)


def test_a_picture(tmp_path: Path):
    pytest.importorskip("matplotlib")
    for held_out in (0, 0.3):
        searched(trials=12, held_out=held_out).draw(tmp_path / "search.png")
        assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
        os.unlink(tmp_path / "search.png")
