"""Weights of other frameworks than torch: readers of their files, and the names that they give to a network's parts."""
