"""Faults done to the train command: kills at any moment."""
