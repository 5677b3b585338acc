"""Imports of torchaudio and transformers, with one line where their wheels do not fit torch's."""

import importlib
import importlib.metadata
from types import ModuleType

from mt4ssl_bench.errors import BenchError

INDEX = "https://download.pytorch.org/whl"


def import_torchaudio(where: str) -> ModuleType:
    """Return torchaudio.

    Raises:
        BenchError: If torchaudio is of another build than torch; `where` says what needs it.
    """
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError) as error:
        raise BenchError(f"{where}: {advice(error)}") from None


def advice(error: BaseException) -> str:
    """Return what does not fit, and the command that installs what fits."""
    import torch  # takes a second

    build = torch.__version__.partition("+")[2]
    index = f" --index-url {INDEX}/{build}" if build else ""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    try:
        audio = importlib.metadata.version("torchaudio")
    except importlib.metadata.PackageNotFoundError:
        return f"torchaudio is not installed; run: pip install torchaudio{index}"
    return (
        f"torchaudio {audio} does not load beside torch {torch.__version__} ({reason}); expected "
        f"both of one build; run: pip install --force-reinstall --no-deps torchaudio{index}"
    )


def is_mismatch(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is a library of torchaudio that does not load."""
    while error is not None:
        if "torchaudio" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
