"""How far slides lie from those of the training, and what that does to networks."""
