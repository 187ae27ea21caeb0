import io
import os
import threading

import pytest

from affinity_tester.report.background_writer import BackgroundWriter


class Stuck(io.StringIO):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.let_go.wait(10)
        return super().write(text)


def test_lines_arrive_in_order():
    stream = io.StringIO()
    background = BackgroundWriter(stream)
    for number in range(1000):
        background.write(f"{number}\n")
        background.flush()
    background.drain()
    assert stream.getvalue().split() == [str(number) for number in range(1000)]


def test_a_reader_that_takes_nothing_holds_nobody_up_and_is_told_what_was_left_out():
    stream = Stuck()
    background = BackgroundWriter(stream, most=30)
    background.write("first\n")
    background.flush()
    assert stream.entered.wait(10)
    for number in range(10):
        background.write(f"line {number}\n")  # returns, though nothing is taken
    stream.let_go.set()
    background.drain()
    assert stream.getvalue().splitlines() == [
        "first",
        "line 0",
        "line 1",
        "line 2",
        "… 7 lines were left out: whoever reads this did not take them",
    ]


def test_a_reader_that_has_gone_is_an_error_of_a_later_call():
    read, write = os.pipe()
    os.close(read)
    with io.TextIOWrapper(io.FileIO(write, "w"), write_through=True) as stream:
        background = BackgroundWriter(stream)
        assert background.fileno() == write
        background.write("x\n")
        with pytest.raises(BrokenPipeError):
            background.drain()
        with pytest.raises(BrokenPipeError):
            background.write("y\n")
        with pytest.raises(BrokenPipeError):
            background.flush()
