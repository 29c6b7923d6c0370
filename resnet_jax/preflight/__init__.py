"""Checks a run's needs here: packages, devices, images, disk, memory, folders. Nothing is changed or fetched.

Importing this or `packages` needs nothing but Python, so that it can report missing packages.
"""
