"""One program per engine; each runs in its own environment and prints one line of JSON."""
