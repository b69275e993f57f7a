"""The report of a run: one self-contained page, its figures, its tables and its figures in numbers."""
