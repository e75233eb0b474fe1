"""One thing changed at a time: what a run owes to each option."""
