"""What every room stands on: errors, atomic files, progress, types, what computes."""
