"""Where a classifier looks: maps of the parts of a face that speak for an expression."""
