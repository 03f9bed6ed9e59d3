"""An execution: workflow code between its start and its end or its continuation."""
