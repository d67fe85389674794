"""The parts of `sweep`: what is done already, rows of the table, what is worth choosing."""
