"""Many processes: this one's number, their agreements, when they stop, and the mesh of their devices."""
