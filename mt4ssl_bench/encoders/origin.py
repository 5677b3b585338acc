"""Where the weights of a model come from, as records have it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

# of a model on Hugging Face's hub: repository, revision (as it was given) and commit;
# of a checkpoint: address (URL or path) and sha256 of the file
Origin = Mapping[str, str]


def checkpoint_origin(file: Path, address: str = "") -> Origin:
    """Return the origin of a checkpoint file that is, or was downloaded from, `address`."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"address": address or str(file), "sha256": digest}
