"""How commands end: interrupts at once, closed pipes in silence, full disks in a sentence; any terminal."""

import codecs
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s4s_nb import boundary, cli

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
COMMAND = [sys.executable, "-m", "s4s_nb.cli"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")

SLOW = """
import time
import s4s_nb as s4s

def denoise(x, sigma):
    print("asked", flush=True)
    time.sleep(600)

def slow():
    return s4s.Model(denoise, shape=(1, 16, 16), sigma_max=20.0, sigma_min=0.01)
"""
PROCESSES = """
import os, sys, time
from functools import partial
from s4s_nb.boundary import boundary
from s4s_nb.runtime import in_processes

def work(k):
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with boundary():
        in_processes([partial(work, k) for k in range(2)], 2)
"""


def hear_interrupts() -> None:
    """A shell in the background lets its children ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(*command, cwd: Path) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"start_new_session": True, "preexec_fn": hear_interrupts}
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, **pipes, **options)


@posix
@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_command_at_once_whatever_its_threads_do(tmp_path, name, status):
    (tmp_path / "own.py").write_text(SLOW)
    command = "evaluate --model own:slow --solver euler --samples 80".split()
    run = start(*COMMAND, *command, cwd=tmp_path)
    assert run.stdout and run.stdout.readline().startswith("asked")
    run.send_signal(getattr(signal, name))
    _, error = run.communicate(timeout=30)  # the threads sleep for ten minutes
    assert run.returncode == status
    assert error.splitlines()[-1] == "s4s-nb: interrupted." and "Traceback" not in error


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@posix
@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGKILL", -9)])
def test_processes_end_with_the_one_that_started_them(tmp_path, name, status):
    """An interrupt reaches all of the terminal; a kill only the one."""
    (tmp_path / "own.py").write_text(PROCESSES)
    run = start(sys.executable, "own.py", cwd=tmp_path)
    assert run.stdout
    workers = [int(run.stdout.readline()) for _ in range(2)]
    assert all(map(lives, workers))
    (os.killpg if name == "SIGINT" else os.kill)(run.pid, getattr(signal, name))
    assert run.wait(timeout=30) == status
    patience = time.monotonic() + 30
    while any(map(lives, workers)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(lives, workers))
    assert "Traceback" not in run.communicate()[1]


def test_a_closed_pipe_is_no_word(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "models", "--json", "cards.json"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "cards.json").exists(), "the file is written though nobody reads"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_disk_behind_the_output_is_a_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "models"], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "s4s-nb: No space left on device.\n")


# ---------------------------------------------------------------- terminals


@pytest.fixture(params=["ascii", "cp437", "latin-1", "utf-8"])
def terminal(request, monkeypatch):
    """Call the command line on a terminal of an encoding: status, standard output and error."""

    def run(*arguments: str) -> tuple[object, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=request.param) for _ in range(2)]
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            for name, stream in zip(("stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            patch.setattr(signal, "signal", lambda *_: None)
            patch.setattr(sys, "argv", ["s4s-nb", *arguments])
            patch.setenv("COLUMNS", "80")
            patch.setenv("MPLBACKEND", "agg")
            cli.main()
        for stream in streams:
            stream.flush()
        out, error = (stream.buffer.getvalue().decode(request.param) for stream in streams)  # pyright: ignore
        return stop.value.code, out, error

    return run


COMMANDS = ["", *"tour models learn evaluate compare sample teacher study train".split()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_can_be_read_on_any_terminal(terminal, command):
    """Its lines keep their width: a character stands for a character."""
    status, out, error = terminal(*command.split(), "--help")
    assert status == 0 and error == "" and "\\u" not in out
    assert {len(line) for line in out.splitlines() if line and line[0] in "│|+╭╰"} == {80}


def test_words_and_errors_on_any_terminal(terminal):
    status, _, error = terminal("evaluate", "--solver", "a–b→c")
    assert status == 2 and error.count("\n") == 1
    assert "'a–b→c'" in error or "'a-b>c'" in error or "'a–b>c'" in error


def test_other_characters_are_escaped_one_by_one():
    codecs.register_error("s4s_nb.plain", boundary.plain)
    text = "– → ä 漢"
    assert text.encode("ascii", "s4s_nb.plain") == rb"- > \xe4 \u6f22"
    assert text.encode("latin-1", "s4s_nb.plain") == b"- > \xe4 \\u6f22"


@pytest.mark.parametrize(
    "error, sentence",
    [
        (PermissionError(13, "Permission denied", "a.json"), "s4s-nb: a.json: Permission denied.\n"),
        (OSError(28, "No space left on device"), "s4s-nb: No space left on device.\n"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(capsys, error, sentence):
    with pytest.raises(SystemExit) as stop, boundary.boundary():
        raise error
    assert stop.value.code == 2 and capsys.readouterr().err == sentence
