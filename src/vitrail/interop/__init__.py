"""Files for other programs: class maps as OME-TIFF, regions and tiles as QuPath's GeoJSON."""
