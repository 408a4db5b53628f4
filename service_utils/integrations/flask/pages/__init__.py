"""The status page: what an operator sees and does in a browser."""

from service_utils.integrations.flask.pages.routes import mount_status_page, status_page_blueprint

__all__ = ["mount_status_page", "status_page_blueprint"]
