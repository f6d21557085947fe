"""Training: one loop, policies that say which archs a step visits, schedules, checkpoints, evaluation."""
