"""A pass that several processes share: each writes shards, which become one file of features.

The batches and their shards depend on the cuts and the kind of device only, so that the features
have the bits of one process's pass, and any number of processes continues what others left. A shard
is named after its utterances: on another kind of device there are other shards.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.features.file import Writer
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.index import Header
from mt4ssl_bench.shared_work import Unit

SHARDS = 256  # at most; one process in 256 then waits for the last one
BATCHES = 4  # of a shard at least: each opens files and reads ahead anew


def shard_folder(file: Path) -> Path:
    """Return the folder of the shards of a file of features, which exists while they are made."""
    return file.with_suffix(".shards")


def shards(file: Path, header: Header, forward: Pass, cuts: Sequence[Cut]) -> dict[Path, Unit]:
    """Return the shards of a pass over cuts: their files, with the units of shared_work.share().

    Args:
        file: That the shards are for; what an interrupted pass wrote into it is not made again.
        header: Of the file.
        forward: The pass.
        cuts: All of them.
    """
    there, every = Writer(file, header).done, {cut.id for cut in cuts}
    batches = [[cut.id for cut in batch] for batch in forward.batches(cuts)]
    count = max(1, min(SHARDS, math.ceil(len(batches) / BATCHES)))

    def unit(shard: Path, names: set[str]) -> Unit:
        def make() -> None:
            try:
                writer = Writer(shard, replace(header, utterances=len(names)))
                writer.write(forward.tensors(cuts, done=(every - names) | there | writer.done))
            except OSError as error:
                if file.with_suffix(".index").exists():
                    return  # processes on another kind of device have finished, and removed this
                raise BenchError(
                    f"{shard}: could not be written ({error}); free disk space or choose another "
                    "--store"
                ) from None

        return Unit(
            shard.with_suffix(".lock"), shard.with_suffix(".index").exists, make, len(names)
        )

    units: dict[Path, Unit] = {}
    for number in range(count):
        own = batches[number * len(batches) // count : (number + 1) * len(batches) // count]
        names = {name for batch in own for name in batch}
        digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
        shard = shard_folder(file) / f"{digest}.bin"
        units[shard] = unit(shard, names)
    return units
