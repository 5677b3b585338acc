"""Utterance ids over the corpora of one pretraining: an id belongs to one of them."""

from collections.abc import Iterator, Sequence

import numpy as np

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.remote import is_url
from mt4ssl_bench.errors import CorpusError


def refuse_shared_ids(corpora: Sequence[Corpus], splits: Sequence[str]) -> None:
    """Refuse corpora with an utterance id in common, in any of the splits: labels are found by it.

    Corpora of one digest hold the same utterances and may share ids. Shards at a URL are not read:
    each would be downloaded, and their labels are stored beside the audio.

    Raises:
        CorpusError: If an id is in several corpora.
    """
    distinct = {each.info.digest: each for each in corpora if not is_url(each.where)}.values()
    if len(distinct) < 2:
        return
    # 8 bytes per id, where a million strings take 150 MB
    keys = [
        np.unique(np.fromiter(map(hash, _ids(corpus, splits)), np.int64)) for corpus in distinct
    ]
    values, counts = np.unique(np.concatenate(keys), return_counts=True)
    if shared := set(values[counts > 1].tolist()):
        name = next(n for corpus in distinct for n in _ids(corpus, splits) if hash(n) in shared)
        owners = [each.where for each, own in zip(distinct, keys, strict=True) if hash(name) in own]
        raise CorpusError(
            f"data.corpus: {len(shared)} utterance ids are in several corpora, for example "
            f"'{name}' in {' and '.join(owners)}; expected different ids; prepare all audio as one "
            "corpus, or one of them again with other ids"
        )


def _ids(corpus: Corpus, splits: Sequence[str]) -> Iterator[str]:
    for split in splits:
        if split in corpus.info.splits:
            yield from corpus.cuts(split).ids()
