"""Running a solver: one run on the host, many in one program, the steps as a pure function."""
