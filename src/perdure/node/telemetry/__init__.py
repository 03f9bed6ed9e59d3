"""What a node counts, and what it tells OpenTelemetry."""
