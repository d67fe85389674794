"""The parts of `prune`: the job, its goal, its rounds of learning, and the delivery."""
