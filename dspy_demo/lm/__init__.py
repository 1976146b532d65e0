"""Language models: choosing one, building it, and the engine that is built in."""
