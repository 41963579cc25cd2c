"""Exports of a generator: SavedModels for TensorFlow Serving, ONNX and LiteRT files."""
