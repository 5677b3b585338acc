"""mt4ssl-bench: pretrain with MT4SSL, evaluate any speech encoder; importing this package imports nothing heavy."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, upstream/, downstream/ and recipes/ lie beside this folder; in a wheel, inside it.
if not (Path(__file__).parent / "upstream").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
