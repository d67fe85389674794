"""The parts of `mh-filter`: scores, chains, judges, files."""
