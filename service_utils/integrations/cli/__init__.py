"""Commands for operators: ``flask services …``, and ``python -m service_utils --url …`` over HTTP."""
