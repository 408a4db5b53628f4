"""One circuit, one status and one leader for all workers of a host, without a server."""

from service_utils.integrations.shared_memory.store import SharedMemoryStore

__all__ = ["SharedMemoryStore"]
