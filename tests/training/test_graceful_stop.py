"""The polite stop, in a real process that gets real signals."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from builders import environment
from mt4ssl_bench.training.graceful_stop import graceful_stop

LOOP = """
import signal, sys, time
from mt4ssl_bench.training.graceful_stop import graceful_stop
theirs = lambda *_: sys.exit(7)
signal.signal(signal.SIGTERM, theirs)
with graceful_stop() as stopped:
    print("ready", flush=True)
    while not stopped():
        time.sleep(0.01)
    print("stopped", flush=True)
    if "again" in sys.argv:
        time.sleep(60)
assert signal.getsignal(signal.SIGTERM) is theirs
print("saved", flush=True)
"""
Process = subprocess.Popen[str]


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    """The loop once it runs."""
    command = [sys.executable, "-c", LOOP, getattr(request, "param", "")]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert line(child) == "ready"
        yield child
        child.kill()


def line(child: Process) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_loop_and_the_process_ends_as_it_wants(
    process: Process, number: signal.Signals
) -> None:
    process.send_signal(number)
    assert [line(process), line(process)] == ["stopped", "saved"]
    assert process.wait() == 0


@pytest.mark.parametrize("process", ["again"], indirect=True)
def test_the_same_signal_again_interrupts_at_once(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    assert line(process) == "stopped"
    process.send_signal(signal.SIGTERM)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert process.returncode != 0


@pytest.mark.parametrize("process", ["again"], indirect=True)
def test_a_launchers_sigterm_after_a_ctrl_c_interrupts_nothing(process: Process) -> None:
    process.send_signal(signal.SIGINT)
    assert line(process) == "stopped"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)


def test_in_another_thread_signals_stay_with_their_owner() -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked: list[bool] = []

    def work() -> None:
        with graceful_stop() as stopped:
            asked.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]
    assert signal.getsignal(signal.SIGTERM) is before
