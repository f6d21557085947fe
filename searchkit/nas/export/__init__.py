"""Files that an extracted network is also written as, for other runtimes, and what they compute."""
