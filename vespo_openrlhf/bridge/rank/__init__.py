"""What works in each of the trainer's ranks beside `actor`: head, guard, metrics, its files."""
