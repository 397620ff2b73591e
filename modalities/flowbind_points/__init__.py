"""3D point clouds with colours: reading, writing, showing, and a codec without a download."""

from flowbind_points.modality import Points

__all__ = ["Points"]
