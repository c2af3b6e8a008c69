"""From the columns of a data frame, as people write them, to features."""
