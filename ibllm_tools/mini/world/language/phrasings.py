"""The questions: for each task the phrasings to train on, and others that are kept for validation and for the test."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal


class Task(StrEnum):
    """What is asked of a scene.

    ``GREY_COLOUR`` asks for the colour in a picture without colours, ``UNKNOWN`` asks what a thing from outside the
    world is; both use the phrasings of the plain task, so only the attachment can tell the model what to answer.
    """

    IDENTIFY = "identify"
    COLOUR = "colour"
    SOUND = "sound"
    USE = "use"
    PAIR = "pair"
    COUNT = "count"
    YES_NO = "yes_no"
    DESCRIBE = "describe"
    GREY_COLOUR = "grey_colour"
    UNKNOWN = "unknown"


Split = Literal["train", "validation", "test"]
Flavour = Literal["any", "image", "audio", "video", "point", "depth", "named"]
"""A phrasing fits every attachment, or one kind of media only; a ``named`` one says the kind it asks about."""
Phrasings = Mapping[Flavour, tuple[str, ...]]

_IDENTIFY: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "What is it?",
            "What is this?",
            "What is that?",
            "What is this thing?",
            "What thing is this?",
            "What thing is it?",
            "What do you notice?",
            "Can you name it?",
            "Name it.",
            "Name this thing.",
            "Name the thing.",
            "What is this called?",
            "What is the name of this thing?",
            "What is its name?",
            "Which thing is it?",
            "Which thing is that?",
            "What kind of thing is it?",
            "Tell me what this is.",
            "Tell me what it is.",
            "Do you know what this is?",
            "Do you know this thing?",
            "Say what it is.",
            "Say its name.",
            "What would you call it?",
            "What did I give you?",
        ),
        "image": (
            "What does the picture show?",
            "What does this image show?",
            "What is in the picture?",
            "What is in this photo?",
            "What do you see?",
            "What can you see in this image?",
            "Name the thing in the photo.",
            "Which thing do you see?",
        ),
        "audio": (
            "What do you hear?",
            "What is making this sound?",
            "What makes this noise?",
            "What makes that sound?",
            "Which thing do you hear?",
            "Which thing sounds like this?",
            "What is in this recording?",
            "What is in the audio?",
        ),
        "video": (
            "What is in this video?",
            "What does the video show?",
            "What do you see in the clip?",
            "Name the thing in the video.",
            "Which thing is in this clip?",
        ),
        "point": (
            "Name this 3D model.",
            "What is this 3D model?",
            "What does the 3D model show?",
            "Which thing has this shape?",
            "What is this shape?",
        ),
        "depth": (
            "What does the depth map show?",
            "What is in the depth map?",
            "Which thing is in this depth map?",
        ),
    },
    "validation": {
        "any": (
            "Which thing is this?",
            "Do you know the name of this thing?",
            "Tell me the name of it.",
            "What is the thing called?",
            "Say what this is.",
        ),
        "image": ("What do you see in the picture?",),
        "audio": ("Which thing makes this sound?",),
        "video": ("What can you see in the video?",),
        "point": ("What shape is this 3D model?",),
        "depth": ("Which thing does the depth map show?",),
    },
    "test": {
        "any": (
            "What kind of thing is this?",
            "Can you tell me what it is?",
            "Say the name of this thing.",
            "What would you call this thing?",
            "What is it called?",
        ),
        "image": ("Which thing is in the image?",),
        "audio": ("What is it that you hear?",),
        "video": ("Which thing does the clip show?",),
        "point": ("Which thing is this 3D model?",),
        "depth": ("What do you see in the depth map?",),
    },
}

_COLOUR: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "What colour is it?",
            "What colour is this?",
            "What colour is that?",
            "What is its colour?",
            "Which colour is it?",
            "Which colour is the thing?",
            "What is the colour of this thing?",
            "What color is it?",
            "What is the color?",
            "Name the colour.",
            "Tell me the colour.",
            "Tell me what colour it is.",
            "Which colour does it have?",
            "What colour does this thing have?",
            "Do you know its colour?",
            "Can you tell the colour?",
            "What colour do you see?",
            "Say its colour.",
            "Say what colour this has.",
        ),
        "image": (
            "What colour is the thing in the picture?",
            "What is the colour of the thing in the photo?",
        ),
        "named": (
            "What colour is the {kind}?",
            "What is the colour of the {kind}?",
            "Which colour is the {kind}?",
            "Which colour does the {kind} have?",
            "What color is the {kind}?",
            "Tell me the colour of the {kind}.",
        ),
    },
    "validation": {
        "any": (
            "Which colour is this?",
            "What is the colour?",
            "Tell me which colour it is.",
            "What colour is this thing?",
        ),
        "named": ("What colour does the {kind} have?", "Name the colour of the {kind}."),
    },
    "test": {
        "any": (
            "What is the colour of it?",
            "Can you tell me its colour?",
            "Which colour do you see?",
            "Name its colour.",
            "Say which colour this thing has.",
        ),
        "named": ("Tell me which colour the {kind} has.", "Say the colour of the {kind}."),
    },
}

_SOUND: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "What sound does it make?",
            "What sound does this make?",
            "What sound does this thing make?",
            "What does it sound like?",
            "What does this sound like?",
            "How does it sound?",
            "How does this thing sound?",
            "Which sound does it make?",
            "What noise does it make?",
            "What noise does the thing make?",
            "Which noise does this thing make?",
            "What is its sound?",
            "Tell me its sound.",
            "Tell me what noise it makes.",
            "What can you hear from it?",
            "Name the sound that it makes.",
            "Say how it sounds.",
            "Can you name the noise?",
        ),
        "named": (
            "What sound does a {kind} make?",
            "What sound does the {kind} make?",
            "How does a {kind} sound?",
            "How does the {kind} sound?",
            "What does a {kind} sound like?",
            "Which noise does the {kind} make?",
            "What is the sound of a {kind}?",
            "What noise does a {kind} make?",
            "Tell me how a {kind} sounds.",
        ),
    },
    "validation": {
        "any": (
            "What noise does this make?",
            "Tell me what sound it makes.",
            "What does this thing sound like?",
            "Which sound does this make?",
        ),
        "named": ("Which sound does a {kind} make?", "What does the {kind} sound like?"),
    },
    "test": {
        "any": (
            "How does this sound?",
            "What is the sound of this thing?",
            "Which noise does it make?",
            "Can you name its sound?",
            "Tell me how it sounds.",
        ),
        "named": ("Tell me what sound a {kind} makes.", "What noise does the {kind} make?"),
    },
}

_USE: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "What is it used for?",
            "What is this used for?",
            "What is this thing used for?",
            "What is it for?",
            "What is this for?",
            "What is the thing for?",
            "What can I do with it?",
            "What can people do with this?",
            "What do people use it for?",
            "What do you use this thing for?",
            "What is its use?",
            "What is the use of this thing?",
            "What is this thing good for?",
            "How can I use it?",
            "How do you use this?",
            "Tell me what it is for.",
            "Tell me what it is used for.",
            "Name its use.",
            "Why do people have it?",
        ),
        "named": (
            "What is a {kind} used for?",
            "What is the {kind} used for?",
            "What is a {kind} for?",
            "What is the {kind} for?",
            "What do people use a {kind} for?",
            "What can I do with a {kind}?",
            "What is a {kind} good for?",
            "What is the use of a {kind}?",
        ),
    },
    "validation": {
        "any": (
            "What is it good for?",
            "What can people use this for?",
            "Tell me its use.",
            "What do you do with it?",
        ),
        "named": ("Why do people have a {kind}?", "What can you use a {kind} for?"),
    },
    "test": {
        "any": (
            "What do people use this thing for?",
            "What is the use of it?",
            "What can I use this for?",
            "Tell me what this is used for.",
            "How do people use it?",
        ),
        "named": ("Tell me what a {kind} is for.", "How do people use a {kind}?"),
    },
}

_PAIR: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "What things are there?",
            "Which things are there?",
            "What are these things?",
            "What are these?",
            "Which two things are these?",
            "Name both things.",
            "Name the two things.",
            "Name all things.",
            "What are the two things?",
            "Tell me both things.",
            "Tell me which two things these are.",
            "What are they?",
            "What are they called?",
            "What two things do you notice?",
            "Do you know both of them?",
            "Say what they are.",
        ),
        "image": (
            "Which things does the picture show?",
            "What two things are in the picture?",
            "Which things do you see?",
        ),
        "audio": ("Which things do you hear?", "What two things make these sounds?"),
        "video": ("Which things are in the video?",),
    },
    "validation": {
        "any": (
            "Which are the two things?",
            "What are both things?",
            "Tell me the two things.",
            "Name these things.",
        ),
        "image": ("What things do you see?",),
        "audio": ("What things do you hear?",),
    },
    "test": {
        "any": (
            "What are these two things?",
            "Tell me which things there are.",
            "Which two things are there?",
            "Name both of them.",
            "What are the things called?",
        ),
        "image": ("Which two things do you see?",),
        "audio": ("Which two things do you hear?",),
    },
}

_COUNT: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "How many things are there?",
            "How many things are here?",
            "How many are there?",
            "How many do you see?",
            "How many things do you see?",
            "How many things do you notice?",
            "Count the things.",
            "Count all things here.",
            "Can you count them?",
            "How many things can you count?",
            "Tell me how many things there are.",
            "What is the number of things?",
            "Say how many there are.",
        ),
        "image": ("How many things does the picture show?", "How many things are in the photo?"),
    },
    "validation": {
        "any": ("Tell me the number of things.", "How many can you see?", "Count them.", "How many things can you see?")
    },
    "test": {
        "any": (
            "Can you count the things?",
            "How many are here?",
            "Say how many things you see.",
            "How many of them are there?",
        )
    },
}

_YES_NO: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "Is it a {kind}?",
            "Is this a {kind}?",
            "Is that a {kind}?",
            "Is there a {kind}?",
            "Is this thing a {kind}?",
            "Could it be a {kind}?",
            "Could that be a {kind}?",
            "It is a {kind}, right?",
            "Is this called a {kind}?",
            "Would you call it a {kind}?",
            "Can this be a {kind}?",
            "Do you notice a {kind} here?",
        ),
        "image": ("Do you see a {kind}?", "Does the picture show a {kind}?", "Is there a {kind} in the photo?"),
        "audio": ("Do you hear a {kind}?", "Is this the sound of a {kind}?"),
        "video": ("Is there a {kind} in the video?",),
        "point": ("Is the 3D model a {kind}?",),
        "depth": ("Does the depth map show a {kind}?",),
    },
    "validation": {
        "any": (
            "Is it called a {kind}?",
            "Is there a {kind} here?",
            "Could this be a {kind}?",
            "This is a {kind}, right?",
        )
    },
    "test": {
        "any": (
            "Would you call this a {kind}?",
            "Can it be a {kind}?",
            "Do you notice a {kind}?",
            "That is a {kind}, right?",
        )
    },
}

_DESCRIBE: dict[Split, Phrasings] = {
    "train": {
        "any": (
            "Describe it.",
            "Describe this.",
            "Describe this thing.",
            "Can you describe it?",
            "Can you describe what you notice?",
            "What does it look like?",
            "How does it look?",
            "How does this thing look?",
            "Tell me about it.",
            "Tell me more about this.",
            "Write a caption.",
            "Give me a description.",
            "Give this thing a caption.",
            "Say what this looks like.",
        ),
        "image": ("Describe the picture.", "Describe this image.", "Write a caption for this photo."),
        "audio": ("Describe the sound.", "Describe what you hear."),
        "video": ("Describe the video.", "Write a caption for the clip."),
        "point": ("Describe the 3D model.", "Describe this shape."),
        "depth": ("Describe the depth map.",),
    },
    "validation": {
        "any": (
            "Can you describe this thing?",
            "Give me a caption.",
            "Tell me about this thing.",
            "What does this look like?",
        ),
        "image": ("Describe the photo.",),
        "audio": ("Describe this sound.",),
        "video": ("Describe this clip.",),
        "point": ("Describe this 3D model.",),
        "depth": ("Describe this depth map.",),
    },
    "test": {
        "any": ("Describe the thing.", "Write a description.", "Tell me what it looks like.", "How does this look?"),
        "image": ("Describe what you see.",),
        "audio": ("Can you describe this sound?",),
        "video": ("Can you describe the video?",),
        "point": ("Can you describe the 3D model?",),
        "depth": ("Can you describe the depth map?",),
    },
}

PHRASINGS: Mapping[Task, Mapping[Split, Phrasings]] = {
    Task.IDENTIFY: _IDENTIFY,
    Task.COLOUR: _COLOUR,
    Task.SOUND: _SOUND,
    Task.USE: _USE,
    Task.PAIR: _PAIR,
    Task.COUNT: _COUNT,
    Task.YES_NO: _YES_NO,
    Task.DESCRIBE: _DESCRIBE,
    Task.GREY_COLOUR: _COLOUR,
    Task.UNKNOWN: _IDENTIFY,
}
"""Task, split and flavour to phrasings. The splits share none; the held-out ones use only words of the seen ones."""
