"""Where model weights are downloaded from."""
