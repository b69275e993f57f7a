"""Whether explanations are true."""
