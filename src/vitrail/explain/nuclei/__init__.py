"""Which nuclei a network looks at: how much of a map lies on each, and what the score loses without it."""
