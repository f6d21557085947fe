"""What an architecture costs, from its plan alone: no module is built, nothing runs."""
