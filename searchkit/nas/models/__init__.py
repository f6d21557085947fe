"""Networks whose architecture is a value: plans, backbones, necks, detectors."""
