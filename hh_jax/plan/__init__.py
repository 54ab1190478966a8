"""What a run will need of chips, by compiling it for them; see command.py."""
