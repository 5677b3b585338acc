"""The commands of `prepare` are built from sources, this package's and those of other packages."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.cli.app import main
from mt4ssl_bench.corpora.source import Options, Source, options_of
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import label_of, speaker_of, text_of, turns_of
from mt4ssl_bench.errors import ConfigError

TOY = '''
"""A source of another package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Birds(Options):
    season: Annotated[Literal["spring", "autumn"], "Season of the recordings."] = "spring"
    least: Annotated[float, "Seconds that a recording has at least."] = 0.0
    species: Annotated[tuple[str, ...], "Species to take; may be repeated."] = ()
    calls: Annotated[bool, "Take calls, too."] = False
    notes_file: Annotated[Path | None, "File of notes."] = None

    def __post_init__(self) -> None:
        if self.least < 0:
            raise ConfigError(f"--least {self.least}: expected 0 or more")

    def notes(self) -> dict[str, str]:
        return {"season": self.season, "species": ",".join(self.species), "calls": str(self.calls)}


def read(root: Path, options: Birds) -> Iterator[Row]:
    for file in sorted((root / options.season).glob("*.wav")):
        if not options.species or file.stem.split("_")[0] in options.species:
            yield Row(id=file.stem, path=file, speaker=file.stem, text="tweet", language="en")


SOURCE = Source(
    name="birds",
    about="Birds in [two] seasons",
    read=read,
    options=Birds,
    examples=("birds --from birds --season autumn --out corpora/birds",),
    hours="0.1 h",
    licence="CC0",
    tasks="speaker",
    obtain="go outside",
)
'''


def install(site: Path, package: str, point: str, module: str) -> None:
    """Write what pip installs of a package with one source."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mt4ssl_bench.sources]\n{point} = {package}:SOURCE\n")
    (site / f"{package}.py").write_text(module)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three packages: one whose source works, one that cannot be imported, one of a wrong option."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "toy_birds", "birds", TOY)
    install(folder, "toy_broken", "broken", "import no_such_thing")
    wrong = TOY.replace("Annotated[bool,", "Annotated[dict,")
    install(folder, "toy_wrong", "wrong", wrong)
    for season in ("spring", "autumn"):
        (folder / "in" / season).mkdir(parents=True)
        for number, name in enumerate(("owl_1", "owl_2", "tit_1")):
            samples = 0.1 * np.random.default_rng(number).standard_normal(16_000)
            soundfile.write(folder / "in" / season / f"{name}.wav", samples, 16_000)
    return folder


def run(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process in which the packages of `site` are installed."""
    return subprocess.run(
        [sys.executable, "-m", "mt4ssl_bench", *map(str, arguments)],
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_source_of_another_package_has_a_command_with_help_and_makes_a_corpus(
    site: Path, tmp_path: Path
) -> None:
    shown = run(site, "prepare", "birds", "--help")
    assert shown.returncode == 0, shown.stderr
    for text in (
        "Birds in [two] seasons.",
        "Length: 0.1 h. Licence: CC0. Tasks: speaker.",
        "Example: mt4ssl-bench prepare birds --from birds --season autumn --out corpora/birds",
        "--season",
        "Season of the recordings.",
        "spring|autumn",
        "[default: spring]",
        "--least",
        "--species",
        "--notes-file",
    ):
        assert text in shown.stdout
    assert "--no-calls" not in shown.stdout
    assert "--download" not in shown.stdout

    listed = run(site, "list", "corpora")
    assert "\nbirds  " in listed.stdout
    assert "  Birds in [two] seasons\n" in listed.stdout
    assert "0.1 h | CC0 | speaker\n" in listed.stdout

    out = tmp_path / "out"
    made = run(
        site, "prepare", "birds", "--from", site / "in", "--season", "autumn", "--species", "owl",
        "--species", "jay", "--calls", "--out", out,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    info = Corpus.open(out).info
    assert (info.name, info.licence) == ("birds", "CC0")
    expected = {"season": "autumn", "species": "owl,jay", "calls": "True"}
    assert {key: info.notes[key] for key in expected} == expected
    cuts = [cut for split in info.splits for cut in Corpus.open(out).cuts(split)]
    assert {(cut.id, text_of(cut), speaker_of(cut)) for cut in cuts} == {
        ("owl_1", "tweet", "owl_1"),
        ("owl_2", "tweet", "owl_2"),
    }


def test_a_source_that_cannot_be_used_is_one_line_and_the_others_work(site: Path) -> None:
    shown = run(site, "prepare", "--help")
    assert shown.returncode == 0
    assert " birds " in shown.stdout
    assert " librispeech " in shown.stdout
    assert " broken " not in shown.stdout
    broken, wrong = shown.stderr.splitlines()
    assert "corpus 'broken' of toy_broken 1.0: toy_broken:SOURCE cannot be imported" in broken
    assert "Birds.calls: <class 'dict'> cannot be an option; expected bool, int, " in wrong
    asked = run(site, "prepare", "broken", "--out", "x")
    assert asked.returncode == 2
    assert asked.stderr.startswith("error: corpus 'broken' of toy_broken 1.0: ")
    refused = run(site, "prepare", "birds", "--from", ".", "--least", "-1", "--out", "x")
    assert refused.stderr == "error: --least -1.0: expected 0 or more\n"


def call(*arguments: object) -> int:
    before = sys.argv
    sys.argv = ["mt4ssl-bench", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["libispeech", "--out", "x"], "unknown corpus 'libispeech'; did you mean librispeech"),
        (["fsdd", "--dowload", "--out", "x"], "--download"),
        (["kaldi", "--langage", "en", "x", "--out", "x"], "--language"),
        (["librilight", "--labelled", "10", "--out", "x"], "'10min', '1h', '10h'"),
        (["librilight", "--subset", "tiny", "--out", "x"], "'small', 'medium', 'large'"),
        (["lhotse", "x", "--clusters", "5", "--out", "x"], "has no effect without --labels-field"),
        (["table", "--out", "x"], "MANIFEST"),
        (["fsdd", "--out", "x"], "expected --from DIR, the corpus's folder or --download"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_what_was_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call("prepare", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# options of each command at the first release: they stay
OUT, FROM, OWN = {"--out", "--shards"}, {"--from", "--partial"}, {"--name", "--licence"}
WEB, TEXT = {"--download", "--mirror"}, {"--lexicon"}
FIRST = {
    "librispeech": OUT | FROM | WEB | TEXT | {"--train", "--valid", "--test"},
    "librilight": OUT | FROM | WEB | TEXT | {"--subset", "--labelled", "--librispeech"},
    "voxceleb1": OUT | FROM | {"--split-file"},
    "speechcommands": OUT | FROM | WEB,
    "timit": OUT | FROM,
    "speechocean762": OUT | FROM | WEB,
    "fsdd": OUT | FROM | WEB,
    "table": OUT | OWN | TEXT | {"--partial"},
    "folder": OUT | OWN,
    "demo": OUT,
    "fairseq": OUT | OWN | TEXT | {"--partial", "--clusters"},
    "lhotse": OUT | OWN | TEXT | {"--partial", "--clusters", "--labels-field"},
    "kaldi": OUT | OWN | TEXT | {"--partial", "--language"},
    "hf": OUT | OWN | TEXT | {"--partial", "--config", "--text", "--speaker", "--language"},
}


@pytest.mark.parametrize("name", FIRST)
def test_a_command_has_the_options_that_it_always_had(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prepare", name, "--help") == 0
    shown = {word for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert shown >= FIRST[name]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A table with a column of labels, an RTTM file and a list of trials beside it."""
    for number in range(3):
        samples = 0.1 * np.random.default_rng(number).standard_normal(16_000)
        soundfile.write(tmp_path / f"c{number}.wav", samples, 16_000)
    lines = ["id\tpath\temotion\tsplit\tcity"]
    lines += [f"c{n}\tc{n}.wav\t{'glad' if n else 'sad'}\ttrain\tX" for n in range(3)]
    (tmp_path / "calls.tsv").write_text("\n".join(lines) + "\n")
    turns = [f"SPEAKER c{n} 1 0.1 0.5 <NA> <NA> ann <NA> <NA>\n" for n in range(3)]
    (tmp_path / "calls.rttm").write_text("".join(turns))
    (tmp_path / "trials.tsv").write_text("left_id\tright_id\tsame\nc0\tc1\t0\nc1\tc2\t1\n")
    return tmp_path


def test_a_table_has_labels_turns_and_lists_by_options(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = calls / "out"
    command = ["table", calls / "calls.tsv", "--label", "emotion", "--label", "city"]
    command += ["--rttm", calls / "calls.rttm", "--list", f"trials={calls / 'trials.tsv'}"]
    assert call("prepare", *command, "--out", out) == 0
    corpus = Corpus.open(out)
    assert corpus.info.fields == ["city", "emotion", "turns:speakers"]
    cuts = {cut.id: cut for cut in corpus.cuts("train")}
    assert [label_of(cut, "emotion") for cut in cuts.values()] == ["sad", "glad", "glad"]
    (turn,) = turns_of(cuts["c0"], "speakers")
    assert (turn.start, turn.end, turn.label) == (0.1, 0.6, "ann")
    assert corpus.list("trials")[1] == {"left_id": "c1", "right_id": "c2", "same": "1"}
    capsys.readouterr()
    assert call("prepare", "table", calls / "calls.tsv", "--label", "emotin", "--out", "x") == 2
    assert "no column 'emotin' that could be a label; did you mean emotion?" in (
        capsys.readouterr().err
    )
    assert call("prepare", "table", calls / "calls.tsv", "--list", "trials.tsv", "--out", "x") == 2
    assert "--list trials.tsv: expected NAME=FILE" in capsys.readouterr().err


def test_help_of_prepare_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv=['mt4ssl-bench','prepare','--help']\n"
        "from mt4ssl_bench.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch','lhotse','datasets','sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in found.stdout


def test_options_say_what_no_command_line_can_give() -> None:
    class Nested(Options):
        pairs: Annotated[tuple[tuple[int, int], ...], "Pairs."] = ()

    class Taken(Options):
        out: Annotated[Path, "Where."] = Path()

    class Silent(Options):
        hidden: dict[str, int] = {}  # noqa: RUF012 - without a help text it is no option
        mode: Annotated[Literal["a", "b"] | None, "Mode."] = None

    from dataclasses import dataclass

    make = dataclass(frozen=True, kw_only=True)
    with pytest.raises(ConfigError, match=r"Nested\.pairs: tuple\[int, int\] cannot be an option"):
        options_of(make(Nested))
    with pytest.raises(ConfigError, match=r"Taken\.out: every source has this option"):
        Source(name="x", about="x", read=lambda _, __: [], options=make(Taken))
    assert [option.name for option in options_of(Silent)] == []
