"""What is known of a classifier: its head, how it is loaded, what its weights are."""
