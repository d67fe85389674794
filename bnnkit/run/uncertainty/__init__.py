"""Ways to predict with uncertainty, side by side; nets with batch-norm noise."""
