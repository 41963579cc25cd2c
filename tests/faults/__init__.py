"""What breaks training, done to the real command: kills, full disks, damaged and changed files."""
