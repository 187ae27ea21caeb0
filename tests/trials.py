"""How many random worlds or histories each property is tried on."""

from __future__ import annotations

import os

HISTORIES = int(os.environ.get("TEST_HISTORIES", "300"))
"""`TEST_HISTORIES=20000 make test ARGS=tests/core/test_client_nat.py` for as many as one likes."""
