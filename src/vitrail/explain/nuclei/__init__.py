"""Which nuclei a network looks at: their relevance, what their removal does, and what they have in common."""
