"""What people see in notebooks: players, pictures and 3D views of what is asked about, found and cited.

Answers, evidence, hits, entries, attachments and index reports show themselves as the last value of a cell; `show` lays
several of them side by side.
"""

from ibllm_tools.notebook.gallery import Gallery, show

__all__ = ["Gallery", "show"]
