"""Ports: the small protocols behind which stores, clusters, transports and clocks are exchanged."""
