"""What exists in the world: kinds of things, what they sound like, what they are for, and the colours they come in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing.

    Attributes:
        name: the noun, e.g. ``"bell"``.
        sound: what it does, as a verb phrase: ``"rings"``.
        use: what it is used for, as a gerund phrase: ``"calling people"``.
    """

    name: str
    sound: str
    use: str

    @property
    def with_article(self) -> str:
        """``"a bell"``."""
        return f"a {self.name}"


KINDS: tuple[Kind, ...] = (
    Kind("bell", "rings", "calling people"),
    Kind("drum", "booms", "keeping the beat"),
    Kind("bird", "chirps", "spreading seeds"),
    Kind("car", "rumbles", "driving on roads"),
    Kind("clock", "ticks", "telling the time"),
    Kind("phone", "beeps", "talking to friends"),
    Kind("siren", "wails", "warning of danger"),
    Kind("bee", "buzzes", "making honey"),
    Kind("guitar", "strums", "playing songs"),
    Kind("piano", "plays chords", "playing concerts"),
    Kind("rocket", "roars", "flying to space"),
    Kind("train", "chugs", "carrying passengers"),
    Kind("helicopter", "chops the air", "rescuing people"),
    Kind("ball", "bounces", "playing games"),
    Kind("hammer", "bangs", "driving nails"),
    Kind("kettle", "hisses", "boiling water"),
    Kind("door", "creaks", "closing a room"),
    Kind("cloud", "patters", "watering plants"),
    Kind("whistle", "shrills", "starting a race"),
    Kind("fan", "whirs", "cooling a room"),
    Kind("trumpet", "blares", "leading a parade"),
    Kind("dog", "barks", "guarding the house"),
    Kind("cat", "meows", "catching mice"),
    Kind("duck", "quacks", "eating snails"),
    Kind("frog", "croaks", "eating flies"),
    Kind("ship", "honks", "crossing the sea"),
    Kind("saw", "rasps", "cutting wood"),
    Kind("camera", "clicks", "taking pictures"),
    Kind("robot", "bleeps", "doing boring work"),
    Kind("fire", "crackles", "keeping warm"),
    Kind("tree", "rustles", "giving shade"),
    Kind("rattle", "rattles", "calming a baby"),
    Kind("tap", "drips", "filling a glass"),
)
KIND_NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.97, 0.52, 0.05),
    "yellow": (0.95, 0.87, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.30, 0.88),
    "purple": (0.52, 0.16, 0.72),
    "pink": (0.97, 0.50, 0.72),
    "brown": (0.45, 0.26, 0.12),
}
"""Colour names and their sRGB values in [0, 1]."""
