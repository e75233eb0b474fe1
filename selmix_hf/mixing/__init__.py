"""Two samples become one."""
