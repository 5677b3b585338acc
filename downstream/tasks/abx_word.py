"""Word ABX; see abx.py."""

from mt4ssl_bench.downstream.tasks.abx import WordABX

TASK = WordABX
