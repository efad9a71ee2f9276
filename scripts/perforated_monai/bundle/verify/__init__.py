"""Judge a packed or foreign bundle without running anything of it."""
