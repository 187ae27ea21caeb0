"""What a run shows: console log, summary, run record, JSON, JUnit, HTML. A consumer of events, nothing else."""
