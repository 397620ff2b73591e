"""Points in the plane and their labels: the world of the experiment on mode collapse."""

from flowbind_plane.label import PlaneLabel
from flowbind_plane.point import PlanePoint
from flowbind_plane.world import prepare

__all__ = ["PlaneLabel", "PlanePoint", "prepare"]
