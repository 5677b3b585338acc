"""speechocean762: read English of Mandarin speakers, phones by annotators."""

from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import pairs, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield Kaldi's train and test folders, with the annotators' phones and their stress."""
    root = root_of(given, "speechocean762", "train/wav.scp")
    phones: dict[str, list[str]] = {}
    for key, spoken in pairs(root / "resource" / "text-phone"):  # "000010011.1<tab>K_B AO0_I L_E"
        phones.setdefault(key.rpartition(".")[0], []).extend(
            phone.rpartition("_")[0] or phone for phone in spoken.split()
        )
    for split in ("train", "test"):
        texts, speakers = (dict(pairs(root / split / name)) for name in ("text", "utt2spk"))
        for name, path in pairs(root / split / "wav.scp"):
            if name not in texts or name not in speakers or name not in phones:
                raise CorpusError(
                    f"{root}: utterance '{name}' of {split}/wav.scp lacks text, speaker or phones"
                )
            yield Row(
                id=name,
                path=root / path,
                speaker=speakers[name],
                language="en",
                text=texts[name],
                phones=" ".join(phones[name]),
                split=split,
            )


SOURCE = Source(
    name="speechocean762",
    about="English sentences read by learners, half of them children, phones by annotators",
    read=read,
    options=Options,
    examples=("speechocean762 --download --out corpora/speechocean762",),
    hours="6 h",
    licence="CC BY 4.0",
    tasks="pretrain, asr, phoneme, speaker",
    homepage="https://www.openslr.org/101",
    citation="Zhang et al., speechocean762: an open-source non-native English speech corpus, "
    "Interspeech 2021",
    archives={  # no checksum is published
        "speechocean762": Archive("https://www.openslr.org/resources/101/speechocean762.tar.gz")
    },
    phones_from="its annotators",
)
