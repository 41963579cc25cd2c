"""Faults done to the train command: kills, full disks, damaged and changed files."""
