"""The torch device that a name means on this machine."""

import torch

from mt4ssl_bench.errors import UpstreamError, first_line


def pick_device(name: str = "auto") -> str:
    """Return a torch device name; "auto" takes cuda, then mps, then cpu.

    Raises UpstreamError for a wrong one.
    """
    if name != "auto":
        try:
            return str(torch.zeros(1, device=name).device)
        except (RuntimeError, AssertionError) as error:
            raise UpstreamError(
                f"--device {name}: not available here ({first_line(error)})"
            ) from None
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
