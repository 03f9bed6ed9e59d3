"""The numbers of a node: for programs, and for OpenTelemetry."""
