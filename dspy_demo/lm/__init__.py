"""Language models: choosing one, building it, and the demo engine that needs none."""
