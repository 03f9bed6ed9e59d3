"""The loop of a node: message, turn, commit, effects. `turns` has it in order."""
