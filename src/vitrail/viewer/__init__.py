"""A viewer in the browser: slides, maps and explanations, on this computer alone."""
