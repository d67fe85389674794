"""Where data come from: named sets, image folders, arrays and factories, and what a split is."""
