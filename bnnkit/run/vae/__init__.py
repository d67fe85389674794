"""The work of the VAE commands: setting up, learning, refining, judging."""
