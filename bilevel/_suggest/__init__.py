"""Settings for a solver on a problem: by its theory from measured constants, the upper step by a short trial."""
