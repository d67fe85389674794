"""Variational autoencoders after the fact: refined posteriors, tighter bounds, likelihoods."""
