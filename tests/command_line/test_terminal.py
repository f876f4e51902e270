"""How a process ends: quietly where nobody reads on, in any encoding, with the refusal as the last line."""

import logging
import os
import subprocess
import sys

import pytest

from open_clip_idplugin.command_line.terminal import refusal
from open_clip_idplugin.errors import IdClipError

PRELUDE = """
import sys, logging, atexit
from open_clip_idplugin.cli import run, main
from open_clip_idplugin.command_line.terminal import run_as_process
"""


def run(code: str, **streams) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PRELUDE + code], text=True, timeout=60, **streams)


def test_a_reader_that_has_left_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    ended = run("sys.argv[1:] = ['--help']\nmain()", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_another_broken_pipe_is_a_defect():
    ended = run("def work(): raise BrokenPipeError\nrun_as_process(work)", capture_output=True)
    assert ended.returncode == 1 and ended.stderr.endswith("BrokenPipeError\n")


def test_a_name_that_no_terminal_can_show_is_printed_with_escapes():
    code = "def work():\n print('a\\udce9\\u00e9.jpg')\n return 0\nrun_as_process(work)"
    ended = run(code, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stdout) == (0, "a\\udce9\\xe9.jpg\n")


def test_what_libraries_log_at_the_end_does_not_bury_the_refusal():
    code = (
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "atexit.register(logging.info, 'statistics of a cache')\n"
        "logging.info('said before')\n"
        "run_as_process(lambda: run({}, ['x'], 'tool'))"
    )
    ended = run(code, capture_output=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["said before", "tool: 'x' is not a verb; choose one of "]


def test_only_what_is_no_defect_has_a_sentence():
    assert refusal(IdClipError("say so")) == "say so"
    assert refusal(PermissionError(13, "Permission denied", "a.json")) == "'a.json': Permission denied"
    assert refusal(FileNotFoundError(2, "No such file", b"a\xe9")) == "'a\\udce9': No such file"
    with pytest.raises(UnicodeEncodeError) as caught:
        "a\udce9".encode()
    assert (
        refusal(caught.value)
        == "the name 'a\\udce9' is no UTF-8, as it must be to be written down; rename what it names"
    )
    for defect in (ValueError("x"), OSError("x"), BrokenPipeError(32, "Broken pipe", "x"), KeyError("x")):
        assert refusal(defect) is None
    assert logging.root.manager.disable == 0  # of this process
