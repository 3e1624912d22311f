"""The parts around the transformer: first stage, text encoder, conditioner, and checks that all parts fit."""
