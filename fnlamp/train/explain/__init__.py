"""What a training program would do, in words and numbers, from shapes alone."""
