"""The settings of a study."""
