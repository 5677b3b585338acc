"""Packages that are missing or do not fit: one line each, with the command that installs them."""

import importlib
import importlib.metadata
from types import ModuleType

from mt4ssl_bench.errors import BenchError, first_line

INDEX = "https://download.pytorch.org/whl"
EXTRAS = {  # what each optional part of this package adds
    "demo": "eSpeak NG, which speaks synthetic corpora",
    "docs": "the documentation site",
    "enhance": "PESQ and STOI",
    "hf": "Hugging Face encoders",
    "hf-data": "Hugging Face data sets",
    "lm": "beam search with a language model",
    "report": "the figures of reports and studies",
    "s3prl": "what s3prl's own programs import",
    "tensorboard": "curves for TensorBoard",
    "wandb": "runs for Weights & Biases",
}


def missing(where: str, extra: str, error: ImportError | None = None) -> str:
    """Return that an extra is not installed, what it adds, and the command that installs it."""
    reason = f" ({first_line(error)})" if error else ""
    return (
        f"{where}: needs the extra [{extra}], {EXTRAS[extra]}{reason}; run: pip install "
        f"'mt4ssl-bench[{extra}]'"
    )


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
