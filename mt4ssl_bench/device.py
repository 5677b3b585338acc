"""The torch device that a name means on this machine."""

import torch

from mt4ssl_bench.errors import UpstreamError, first_line


def pick_device(name: str = "auto") -> str:
    """Return a torch device name; "auto" takes cuda, then mps, then cpu.

    Raises UpstreamError for a wrong one.
    """
    # fp32 means fp32: convolutions in TF32, cuDNN's default, differ by 1e-3, and with the batch
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # with a mask, gradients of cuDNN's attention can be NaN (github.com/pytorch/pytorch/issues/
    # 196678), and it builds a plan, up to half a second, for each new length
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
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
