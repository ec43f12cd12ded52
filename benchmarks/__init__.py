"""Figures of Syncline and of what it is compared with, measured on the same work in one run."""
