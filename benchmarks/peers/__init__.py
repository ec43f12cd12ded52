"""Syncline and its peers, each configured as a good user would, behind one face."""
