"""The error tree. A `UserError` is shown as one line that says what to do; anything else is a bug."""


class AffinityTesterError(Exception):
    """The root of everything this package raises on purpose."""


class UserError(AffinityTesterError):
    """Something the user can mend: its text is one line that says what is wrong and what to do. Exit code 2."""


class StunError(AffinityTesterError):
    """A datagram that is not the STUN message asked for; `reason` is a stable, hyphenated word to count it by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Name the reason (for the counters) and, for people, the detail."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class TrackerError(AffinityTesterError):
    """An illegal call to a state machine (a caller's bug). The machine is unchanged."""
