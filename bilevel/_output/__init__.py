"""What every room writes and shows: files, tables, progress, figures and pages. It imports no other room."""
