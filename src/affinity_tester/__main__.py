"""`python -m affinity_tester`."""

from affinity_tester.cli import main

main(prog_name="affinity-tester")
