"""What the rest is built on: checks, atomic files, random numbers, precision, memory."""
