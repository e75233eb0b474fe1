"""What else one would do with the same checkpoint: small functions and losses, useful by themselves."""
