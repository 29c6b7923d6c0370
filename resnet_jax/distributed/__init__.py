"""Many processes: who this one is, what they agree on, when they stop, and the mesh of their devices."""
