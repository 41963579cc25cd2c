"""Measurements of the package, `python -m benchmarks.<name>`, and the modules that they share."""
