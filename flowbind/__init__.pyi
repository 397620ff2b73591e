"""The public names, for editors and type checkers: `__init__.py` imports them on first use."""

from flowbind.batch import Batch as Batch
from flowbind.codec import Codec as Codec
from flowbind.codec import NeuralCodec as NeuralCodec
from flowbind.data.manifest import Manifest as Manifest
from flowbind.data.store import LatentStore as LatentStore
from flowbind.flow.path import sample_path as sample_path
from flowbind.flow.solver import integrate as integrate
from flowbind.generation import Model as Model
from flowbind.method import Direction as Direction
from flowbind.method import Loss as Loss
from flowbind.method import Method as Method
from flowbind.methods.flowbind import FlowBind as FlowBind
from flowbind.modality import Modality as Modality
from flowbind.nets.mlp import Drift as Drift
from flowbind.nets.mlp import DriftConfig as DriftConfig
from flowbind.nets.mlp import Head as Head
from flowbind.nets.mlp import HeadConfig as HeadConfig
from flowbind.release import load as load
from flowbind.release import save as save
from flowbind.train.training import Training as Training

__all__ = [
    "Batch",
    "Codec",
    "Direction",
    "Drift",
    "DriftConfig",
    "FlowBind",
    "Head",
    "HeadConfig",
    "LatentStore",
    "Loss",
    "Manifest",
    "Method",
    "Modality",
    "Model",
    "NeuralCodec",
    "Training",
    "integrate",
    "load",
    "sample_path",
    "save",
]
