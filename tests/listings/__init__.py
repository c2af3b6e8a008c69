"""Plain NumPy transcriptions of the papers' listings: a referee that never imports the package."""
