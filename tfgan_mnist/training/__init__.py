"""Training a run: devices, model, callbacks, diagnostics, checkpoints, and what follows."""
