"""The edges: each module here needs one of the package's extras, and nothing else imports them."""
