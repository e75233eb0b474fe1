"""Every number, table and picture that is shown."""
