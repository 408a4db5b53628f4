"""The routes of the API. Each module has one blueprint; what they work with is in ``current_app``."""
