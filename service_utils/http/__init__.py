"""What knows ``requests`` and ``urllib3``: the transport, classification, tokens and the inbound context."""
