"""The trainer: takes training jobs, hands them to workers, and keeps the truth about them."""
