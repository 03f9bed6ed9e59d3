"""The event loop on which workflow code runs."""
