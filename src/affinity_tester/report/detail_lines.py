"""Lines of what happens to single sessions all the time: the console shows them when asked (`-v`), the JSON log always."""

from __future__ import annotations

from affinity_tester.core import events as ev
from affinity_tester.report.lines import Line
from affinity_tester.report.logging import Colour
from affinity_tester.report.text import served_by
from affinity_tester.units import format_duration, plural


def detail_lines(event: ev.SessionEvent) -> list[Line]:
    """Return the lines of a session's start, first answer, losses and late replies; of other events none."""
    name = event.session
    match event:
        case ev.SessionStarted(local=local, target=target):
            text = f"{name} sends from {local}" + (f" to {target}" if target is not None else "")
        case ev.FirstAnswer(identity=identity):
            text = f"{name} first answered by {served_by(identity)}, which sees it as {identity.reflexive}"
        case ev.ProbesLost(first_seq=first_seq, count=count):
            text = f"{name} lost {plural(count, 'probe')}, from number {first_seq:,} on"
        case ev.LateReply(seq=seq, delay_ns=delay_ns):
            text = f"{name} probe {seq:,} was answered after {format_duration(delay_ns)}, when it counted as lost"
        case ev.LossDirection(first_seq=first_seq, last_seq=last_seq, up=up, down=down):
            which = f"of probes {first_seq:,} to {last_seq:,}"
            text = f"{name} {which} {up:,} were lost on the way up and {down:,} on the way down"
        case _:
            return []
    return [Line(f"    {text}", colour=Colour.QUIET, category="details")]
