"""The node: owns scopes, runs turns, commits them, and carries out their effects."""
