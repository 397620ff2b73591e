"""Latents as tokens: of a grid its squares, of a sequence its positions, of a vector the whole."""

import math

from torch import Tensor

# Shapes: n rows, L tokens, F features of each.


class Tokens:
    """A latent of any kind as tokens, (n, *shape) -> (n, L, F), and back.

    Args:
        shape: Shape of one latent: of a grid (C, H, W), a sequence (L, F) or a vector (F,).
        patch: Side of the squares that a grid is split into.

    Attributes:
        sides: Tokens along each axis.
        features: Number F of features of a token.

    Raises:
        ValueError: a patch that divides a grid's height or width with a rest, or another shape.
    """

    def __init__(self, shape: tuple[int, ...], patch: int) -> None:
        self.shape = tuple(shape)
        self.patch = patch
        self.sides: tuple[int, ...]
        if len(shape) == 1:
            self.sides, self.features = (1,), shape[0]
        elif len(shape) == 2:
            self.sides, self.features = (shape[0],), shape[1]
        elif len(shape) == 3 and not (shape[1] % patch or shape[2] % patch):
            self.sides = (shape[1] // patch, shape[2] // patch)
            self.features = shape[0] * patch**2
        else:
            raise ValueError(
                f"a latent of shape {self.shape} has no patches of side {patch}; grids are "
                "(C, H, W), and the patch divides H and W"
            )

    @property
    def count(self) -> int:
        """Number L of tokens."""
        return math.prod(self.sides)

    def split(self, x: Tensor) -> Tensor:
        """Latents, with shape (n, *shape), as tokens, with shape (n, L, F)."""
        if len(self.shape) < 3:
            return x.reshape(len(x), *self.sides, self.features)

        channels = self.shape[0]
        rows, columns = self.sides
        x = x.reshape(len(x), channels, rows, self.patch, columns, self.patch)
        x = x.permute(0, 2, 4, 1, 3, 5)
        return x.reshape(len(x), rows * columns, self.features)

    def join(self, tokens: Tensor) -> Tensor:
        """Tokens, with shape (n, L, F), as latents, with shape (n, *shape)."""
        if len(self.shape) < 3:
            return tokens.reshape(len(tokens), *self.shape)

        channels = self.shape[0]
        rows, columns = self.sides
        x = tokens.reshape(len(tokens), rows, columns, channels, self.patch, self.patch)
        x = x.permute(0, 3, 1, 4, 2, 5)
        return x.reshape(len(x), *self.shape)
