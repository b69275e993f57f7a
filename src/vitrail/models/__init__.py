"""Encoders, the classifier, the segmenter, and the folders that hold them."""
