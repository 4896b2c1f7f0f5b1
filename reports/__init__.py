"""What people read: live lines, summaries, explained failures and HTML, all made from a run directory."""
