"""Modules that carry a posterior."""
