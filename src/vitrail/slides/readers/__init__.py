"""Pixels of slides: OpenSlide, tiled TIFF, codecs, scaling."""
