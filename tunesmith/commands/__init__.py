"""What each command does, once it is parsed; heavy imports are inside the functions."""
