"""The REST and the OpenAI-compatible routes over one `ChatService`."""
