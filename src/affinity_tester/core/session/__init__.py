"""One session: its probes, its changes, its losses by direction and its round-trip times; and when all sessions send."""
