"""The embedded world `shapes`: small scenes as text, image, audio and points, made on the spot.

A scene is one solid with a shape (6), a colour (8) and a size (3), each uniform. Every modality
shows all three in its own way and adds what is private to it: a caption chooses its words, a
picture its view, light and background, a cloud its rotation and jitter, a sound its phase, onset,
vibrato, loudness and noise.

| factor | text | image and points | audio |
|---|---|---|---|
| shape | a noun | the solid | timbre and envelope |
| colour | an adjective | the colour | one of eight notes in an octave |
| size | an adjective | the scale | the octave, large is low |
"""

from flowbind_shapes.dataset import prepare

__all__ = ["prepare"]
