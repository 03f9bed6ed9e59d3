"""Data: what commits, journals and messages are made of."""
