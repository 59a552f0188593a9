"""What stands before every HTTP and WebSocket endpoint: who may come in, how often, how large and how long."""
