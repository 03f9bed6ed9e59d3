"""What every test shares: property tests that give the same verdict on each machine, however slow."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a slow machine is not a bug. No database: a run depends on the tree alone.
# Derandomised: who looks for new counterexamples passes `--hypothesis-profile=search`.
settings.register_profile("perdure", deadline=None, database=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("perdure")
