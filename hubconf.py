"""Entries of torch.hub.

torch.hub.load(<this repository>, "mt4ssl_local", ckpt=..., source="local")
"""

from mt4ssl_bench.upstream.expert import mt4ssl, mt4ssl_custom, mt4ssl_local, mt4ssl_url

__all__ = ["mt4ssl", "mt4ssl_custom", "mt4ssl_local", "mt4ssl_url"]

dependencies = ["torch", "omegaconf", "rich", "soundfile", "numpy", "safetensors", "filelock"]
