"""Attachments as bounded arrays: one file per kind of media, and the limits that hold before anything is decoded."""
