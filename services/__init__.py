"""What runs: the processes, their settings, their state. Puts the parts together."""
