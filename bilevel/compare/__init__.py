"""Comparisons of the solvers on the tasks: settings, runs, records, tables and figures."""
