"""The admin API: what the operator's desk shows and does, as JSON over HTTP."""

from service_utils.integrations.flask.admin.api import admin_blueprint, mount_admin

__all__ = ["admin_blueprint", "mount_admin"]
