"""What only makes steps faster."""
