"""What recipes and benchmarks share; nothing else imports it."""
