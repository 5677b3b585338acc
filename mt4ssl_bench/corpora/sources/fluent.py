"""Fluent Speech Commands: spoken commands with action, object and location."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError

SPLITS = ("train", "valid", "test")
LABELS = ("action", "object", "location")
COLUMNS = {"path", "speakerId", "transcription", *LABELS}


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield the lines of data/{train,valid,test}_data.csv; "none" is a value like any other."""
    root = root_of(given, "Fluent Speech Commands", "data/train_data.csv")
    for split in SPLITS:
        file = root / "data" / f"{split}_data.csv"
        table = csv.DictReader(line for _, line in numbered_lines(file))
        if missing := sorted(COLUMNS - set(table.fieldnames or ())):
            raise CorpusError(
                f"{file}: no column {', '.join(missing)}; expected the header "
                "',path,speakerId,transcription,action,object,location'"
            )
        for cells in table:
            if gaps := sorted(name for name in COLUMNS if not cells[name]):
                raise CorpusError(
                    f"{file}, line {table.line_num}: no {', '.join(gaps)}; expected 'none' where a "
                    "command names nothing"
                )
            yield Row(
                id=Path(cells["path"]).stem,
                path=root / cells["path"],
                speaker=cells["speakerId"],
                language="en",
                text=cells["transcription"],
                labels={name: cells[name] for name in LABELS},
                split=split,
            )


SOURCE = Source(
    name="fluent",
    about="Fluent Speech Commands: commands to a device; SUPERB's corpus for intent classification",
    read=read,
    options=Options,
    help="Splits and labels are those of data/*_data.csv.",
    examples=("fluent --from fluent_speech_commands_dataset --out corpora/fluent",),
    hours="19 h",
    licence="Fluent Speech Commands Public License (academic research)",
    tasks="pretrain, asr, phoneme, speaker, intent",
    homepage="https://arxiv.org/abs/1904.03670",
    citation="Lugosch et al., Speech model pre-training for end-to-end spoken language "
    "understanding, Interspeech 2019",
    obtain="accept its licence, unpack it, and name the folder that holds data and wavs",
)
