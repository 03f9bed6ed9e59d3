"""Replay: histories as files, and the proof that today's code still fits them."""
