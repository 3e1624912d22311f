"""Ways to need less memory: offloading and quantization."""
