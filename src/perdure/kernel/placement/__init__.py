"""Placement: who is alive, and who should own what. Pure: no clock, no network."""
