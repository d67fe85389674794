"""The parts of `mh-proposal`: its target, and its run loaded again."""
