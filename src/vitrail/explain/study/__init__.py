"""The explanations of a study: every test tile, stored."""
