"""The installed command, and `python -m affinity_tester`: what must be so before anything else is imported."""

import _signal  # type: ignore[import-not-found]  # `signal` imports for milliseconds, open to Ctrl-C again
import os
import sys

EXIT_INTERRUPTED = 130


def _leave(_number: int, _frame: object) -> None:
    """Ctrl-C while Python still imports: nothing has begun, so there is nothing to say."""
    os._exit(EXIT_INTERRUPTED)


_MAY_INTERRUPT = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
"""Else whoever started this wants Ctrl-C ignored (`nohup`, a shell's `&`)."""

if _MAY_INTERRUPT:
    _signal.signal(_signal.SIGINT, _leave)


def _interrupt_again() -> None:
    """Ctrl-C raises `KeyboardInterrupt` from now on: the command may have something to end."""
    if _MAY_INTERRUPT:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _open_standard_streams() -> None:
    """Give what was closed at start (`>&-`: cron, daemons) somewhere to go.

    Else the next file or socket gets its number, and what is printed. Python has made such a stream None.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)  # as a standard stream is; the server's workers use it too
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)


def main() -> None:
    """Run the process's command line, and exit."""
    try:
        _open_standard_streams()
        from affinity_tester import cli  # noqa: PLC0415 - takes the most time, and opens files

        cli.guard_stdout()
        cli.main.main(prog_name="affinity-tester", obj=_interrupt_again)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
