"""Vitrail: train, check, apply and explain networks that find head and neck cancer in H&E whole slides."""

__version__ = "0.1.0"
