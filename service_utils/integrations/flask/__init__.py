"""Flask: one extension for error answers, inbound context and status, and the guard of internal routes."""
