"""Training of the classifier and the segmenter."""
