"""What every room writes and shows: files, tables, progress, figures and pages. It knows nothing of the other rooms."""
