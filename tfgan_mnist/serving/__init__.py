"""Serves SavedModels as TensorFlow Serving does; knows nothing of how they were trained."""
