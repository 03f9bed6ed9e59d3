"""Perdure: durable execution for Python. Code that must finish, in your own process."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
