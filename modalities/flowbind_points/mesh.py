"""Meshes as coloured points drawn on their surface; read with trimesh."""

import io
import re

import numpy as np

from flowbind_points.ply import GREY

FAR = 1e18  # world units; the areas of what is farther out overflow float32
DRAWN = 4096  # points of a mesh
DECLARED = {".ply": rb"element face (\d+)", ".off": rb"\A\w*OFF\s+\d+\s+(\d+)"}  # number of faces


def read_mesh(content: bytes, suffix: str) -> np.ndarray:
    """Draws points uniformly by area on the surface of a mesh, always the same ones.

    They have the colours of their faces, mid-grey where the mesh has none.

    Args:
        content: of the file.
        suffix: of the file, which tells the format.

    Returns:
        x, y, z in world units and red, green, blue in [0, 1]: float32 with shape (4096, 6).

    Raises:
        ValueError: trimesh is not installed, or the content is not a whole mesh (of OBJ, which declares no number of
            faces, a cut between two lines goes unseen); says why, without the file's name.
    """
    try:
        import trimesh
    except ImportError:
        raise ValueError("a mesh, which needs trimesh; pip install 'flowbind[points]'") from None
    try:
        mesh = trimesh.load_scene(io.BytesIO(content), file_type=suffix[1:], process=False).to_mesh()
        sound = np.abs(mesh.vertices).max(initial=0) < FAR and mesh.faces.max(initial=0) < len(mesh.vertices)
    except Exception:  # trimesh's parsers raise whatever damaged data leads them to
        raise ValueError(f"truncated, damaged or not a mesh of the kind {suffix}") from None
    if not sound or mesh.faces.min(initial=0) < 0:
        raise ValueError("damaged: vertices that are not finite, or faces of vertices that are not there")
    declared = re.search(DECLARED[suffix], content) if suffix in DECLARED else None
    count = int(declared[1]) if declared else 0
    if len(mesh.faces) < max(1, count):
        raise ValueError(
            f"truncated, {len(mesh.faces)} of {count} faces are there" if count else "a mesh without faces"
        )
    place, face = trimesh.sample.sample_surface(mesh, DRAWN, seed=0)
    colour = np.full((DRAWN, 3), GREY)
    if mesh.visual.kind is not None:
        visual = mesh.visual.to_color() if mesh.visual.kind == "texture" else mesh.visual
        colour = visual.face_colors[face, :3] / 255
    return np.concatenate([place, colour], axis=1).astype(np.float32)
