"""Names of the action classes. Class id = position. Source: the published class lists of NTU RGB+D and NW-UCLA."""

from __future__ import annotations

NTU60 = (
    "drink water", "eat meal", "brush teeth", "brush hair", "drop", "pick up", "throw", "sit down", "stand up",
    "clapping", "reading", "writing", "tear up paper", "put on jacket", "take off jacket", "put on a shoe",
    "take off a shoe",
    "put on glasses", "take off glasses", "put on a hat/cap", "take off a hat/cap", "cheer up", "hand waving",
    "kicking something", "reach into pocket", "hopping", "jump up", "phone call", "play with phone/tablet",
    "type on a keyboard", "point to something", "taking a selfie", "check time (from watch)", "rub two hands",
    "nod head/bow", "shake head", "wipe face", "salute", "put palms together", "cross hands in front", "sneeze/cough",
    "staggering", "falling down", "headache", "chest pain", "back pain", "neck pain", "nausea/vomiting", "fan self",
    "punch/slap", "kicking", "pushing", "pat on back", "point finger", "hugging", "giving object", "touch pocket",
    "shaking hands", "walking towards", "walking apart",
)  # fmt: skip

NW_UCLA = (
    "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down", "stand up", "donning",
    "doffing", "throw", "carry",
)  # fmt: skip


def class_names(num_classes: int) -> tuple[str, ...]:
    """The NTU-60 names for 60 classes, else ``class 0``, ``class 1`` ..."""
    if num_classes == len(NTU60):
        return NTU60
    return tuple(f"class {n}" for n in range(num_classes))
