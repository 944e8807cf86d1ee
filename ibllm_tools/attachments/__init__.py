"""What a user hands in, as a checked `Attachment`, and the `AttachmentStore` that keeps it under a handle."""

from ibllm_tools.attachments.attachment import SCHEME, Attachment, Roots, allowed_path, common_roots
from ibllm_tools.attachments.store import AttachmentRecord, AttachmentStore, StoreCheck, StoreSize

__all__ = [
    "SCHEME",
    "Attachment",
    "AttachmentRecord",
    "AttachmentStore",
    "Roots",
    "StoreCheck",
    "StoreSize",
    "allowed_path",
    "common_roots",
]
