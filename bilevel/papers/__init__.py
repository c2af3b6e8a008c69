"""The papers' experiments: entries as data, and what runs, judges, draws and reports them."""
