"""What is done with subnets: test, fine-tune, extract."""
