"""What a user hands in, as a checked `Attachment`, and the `AttachmentStore` that keeps it under a handle."""

from ibllm_tools.attachments.attachment import SCHEME, Attachment, Roots, allowed_path, common_roots
from ibllm_tools.attachments.origin import Origin
from ibllm_tools.attachments.store import AttachmentRecord, AttachmentStore, StoreCheck, StoreSize
from ibllm_tools.attachments.traceable import Traceable

__all__ = [
    "SCHEME",
    "Attachment",
    "AttachmentRecord",
    "AttachmentStore",
    "Origin",
    "Roots",
    "StoreCheck",
    "StoreSize",
    "Traceable",
    "allowed_path",
    "common_roots",
]
