"""Jobs: submitted, claimed, performed, settled, and found again when their worker is lost."""
