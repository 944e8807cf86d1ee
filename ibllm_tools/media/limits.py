"""How much an attachment may cost before it is decoded.

An attachment can come from anyone, and a few kilobytes can announce gigabytes. Every decoder therefore reads the
announced size first and compares it with these limits. Memory is bounded by them, and not by the file.
"""

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

MEBIBYTE = 1 << 20


class Limits(BaseModel):
    """The most that one attachment may hold; ``Limits(max_seconds=60)`` changes one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: PositiveInt = Field(default=512 * MEBIBYTE, description="Bytes of a file.")
    max_pixels: PositiveInt = Field(default=64_000_000, description="Width times height of an image or video frame.")
    max_seconds: PositiveFloat = Field(default=4 * 3600.0, description="Seconds of a sound or video.")
    max_samples: PositiveInt = Field(default=128 * MEBIBYTE, description="Samples of a sound decoded in one call.")
    max_points: PositiveInt = Field(default=5_000_000, description="Points of a cloud or vertices of a mesh.")
    max_faces: PositiveInt = Field(default=5_000_000, description="Faces of a mesh, repeated parts counted.")
    max_text_chars: PositiveInt = Field(default=1_000_000, description="Characters of a text.")
    max_imu_samples: PositiveInt = Field(default=1_000_000, description="Time steps of an inertial measurement.")
    max_fetch_seconds: PositiveFloat = Field(default=30.0, description="Seconds that fetching a URL may take.")


DEFAULT_LIMITS = Limits()
