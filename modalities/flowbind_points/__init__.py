"""3D point clouds with colours: reading, writing, showing, and a small codec that needs no
download.
"""

from flowbind_points.modality import Points

__all__ = ["Points"]
