"""Records and run folders of a job that exist already, those of scheme 1 included."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mt4ssl_bench import results
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.results import earlier_identities
from mt4ssl_bench.results.record import Identity, Result
from mt4ssl_bench.settings import flatten

LOGGER = logging.getLogger(__name__)


def find_record(job: Job, folder: Path, upstream: Upstream) -> Result | None:
    """Return a job's record on `upstream`, of this scheme or of scheme 1, or None.

    A record of scheme 1 whose identity did not cover everything that affects a score is named in
    the log and not used.
    """
    identity = job.identity(upstream)
    record = results.find(folder, identity.key)
    lacking = earlier_identities.lacking(to_dict(job.config))
    reasons = dict.fromkeys(former(upstream), lacking)
    for fingerprint in getattr(upstream, "insufficient", ()):
        reasons[fingerprint] = f"its fingerprint {fingerprint} does not tell models apart"
    for fingerprint, reason in reasons.items():
        key = former_key(job, identity, fingerprint)
        if record is not None or key is None:
            break
        if not reason:
            record = results.find(folder, key)
        for path in results.paths(folder, key) if reason else ():
            LOGGER.warning("%s: not used as a record of this row, %s", path, reason)
    return record


def run_folder(job: Job, out: Path, upstream: Upstream) -> Path:
    """Return the folder of a job's trained model, that of scheme 1 if it exists."""
    identity = job.identity(upstream, training=True)
    keys = [former_key(job, identity, fingerprint) for fingerprint in former(upstream)]
    stems = [
        results.stem(job.config.task, upstream.name, key) for key in (identity.key, *keys) if key
    ]
    folders = [out / "runs" / stem for stem in stems]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def former(upstream: Upstream) -> list[str]:
    """Return the fingerprints that records of scheme 1 may have, the present one included."""
    earlier: Sequence[str] = getattr(upstream, "former", ())
    return list(dict.fromkeys((upstream.fingerprint, *earlier)))


def former_key(job: Job, identity: Identity, fingerprint: str) -> str | None:
    """Return the key of a job's record under scheme 1, or None if it had none.

    Args:
        job: The job.
        identity: Its identity under this scheme.
        fingerprint: Of the upstream, at the time of scheme 1.
    """
    if not identity.settings.keys() <= flatten(earlier_identities.DEFAULTS).keys():
        return None  # a key that did not exist then
    values, files = to_dict(job.config), job.config.files()
    if "decode.lm" not in identity.settings:
        values.pop("decode", None)
        files = {key: digest for key, digest in files.items() if not key.startswith("decode.")}
    recipe = earlier_identities.recipe(values, files)
    return results.former_key(replace(identity, fingerprint=fingerprint), recipe)
