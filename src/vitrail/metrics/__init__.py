"""Numbers that say how good a prediction is, and how sure they are."""
