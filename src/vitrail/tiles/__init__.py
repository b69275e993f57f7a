"""From slides and outlines to tiles, masks and labels."""
