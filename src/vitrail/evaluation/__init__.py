"""The numbers of a study, computed without drawing anything."""
