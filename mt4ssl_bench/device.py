"""The torch device that a name means on this machine."""

import torch

from mt4ssl_bench.errors import UpstreamError, first_line


def pick_device(name: str = "auto") -> str:
    """Return a torch device name; "auto" takes cuda, then mps, then cpu.

    Sets what computes on CUDA in this process; see fix_arithmetic().

    Raises UpstreamError for a wrong one.
    """
    fix_arithmetic()
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


def fix_arithmetic() -> None:
    """Switch off TF32 and cuDNN's attention on CUDA.

    fp32 means fp32: convolutions in TF32, cuDNN's default, differ by 1e-3, and with the batch.
    Gradients of cuDNN's attention can be NaN where there is a mask
    (https://github.com/pytorch/pytorch/issues/196678), and it makes a plan for each new length.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
