"""Language models that run in this process, from GGUF files, by llama.cpp."""
