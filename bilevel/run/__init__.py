"""Running a solver: one run on the host, many runs in one program, or the steps as a pure function."""
