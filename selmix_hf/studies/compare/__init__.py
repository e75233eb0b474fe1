"""Methods held against each other from one start."""
