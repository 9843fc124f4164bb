"""What an attacker or an accident does, a table a contract: each line a command or a change to a
file, and what must come of it. ``benchmarks/hostile.py`` counts the lines and those that hold."""
