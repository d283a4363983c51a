"""Schedules: when jobs are repeated, who starts them, and how they follow their sources."""
