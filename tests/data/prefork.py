"""A server of processes that run the command line: it imports everything once, then each start is a
fork.

Each line of stdin is {"argv": [...], "env": {...}, "out": path of a file for stdout and stderr};
the answer is a pid. {"wait": pid} answers with its exit code, negative for a signal.
"""

import json
import os
import sys

import lhotse.dataset  # noqa: F401 - so that no child needs the seconds that these take
import torch._dynamo  # noqa: F401 - torch's optimisers import it

import mt4ssl_bench.downstream.evaluate
import mt4ssl_bench.upstream.pretrain  # noqa: F401
from mt4ssl_bench.cli.app import main


def child(argv: list[str], env: dict[str, str], out: str) -> None:
    os.environ.update(env)
    file = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["mt4ssl-bench", *argv]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
    else:
        answer = os.fork()
        if not answer:
            child(asked["argv"], asked["env"], asked["out"])
    os.write(1, f"{answer}\n".encode())
