"""A stranger's training config -> an overlay that grows dendrites in it, without running it."""
