"""PtychographyService: an object from diffraction patterns, with networks and iterative engines."""
