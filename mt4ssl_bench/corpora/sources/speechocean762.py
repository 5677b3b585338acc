"""speechocean762: read English of Mandarin speakers, phones by annotators."""

from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import pairs, root_of
from mt4ssl_bench.errors import CorpusError


def speechocean762(given: Path) -> Iterator[Row]:
    """Yield speechocean762: Kaldi's train and test folders, phones as the annotators give them,
    with stress.
    """
    root = root_of(given, "speechocean762", "train/wav.scp")
    phones: dict[str, list[str]] = {}
    for key, spoken in pairs(root / "resource" / "text-phone"):  # "000010011.1<tab>K_B AO0_I L_E"
        phones.setdefault(key.rpartition(".")[0], []).extend(
            p.rpartition("_")[0] or p for p in spoken.split()
        )
    for split in ("train", "test"):
        texts, speakers = (
            dict(pairs(root / split / "text")),
            dict(pairs(root / split / "utt2spk")),
        )
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
