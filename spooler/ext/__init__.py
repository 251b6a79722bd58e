"""What is built on spooler: each needs only what is below it, and nothing needs it."""
