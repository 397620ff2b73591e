"""A feature extractor of torch-fidelity's kind that needs no weights."""


def register_means(name: str) -> str:
    """Registers a random map of a picture's 2 x 2 mean colours to 5 features, once. Returns its name."""
    import torch
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import (
        FEATURE_EXTRACTORS_REGISTRY,
        register_feature_extractor,
    )

    class Means(FeatureExtractorBase):
        def __init__(
            self, name, features_list, feature_extractor_weights_path=None, **_
        ):
            super().__init__(name, features_list)
            self.register_buffer(
                "map",
                torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) / 50,
            )

        def forward(self, pictures):
            assert pictures.dtype == torch.uint8
            assert not torch.is_autocast_enabled("cpu")
            means = torch.nn.functional.adaptive_avg_pool2d(
                pictures.float(), 2
            ).flatten(1)
            return ((means @ self.map).tanh(),)

        @staticmethod
        def get_provided_features_list():
            return ("five",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "five"

        @staticmethod
        def can_be_compiled():
            return False

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, Means)
    return name
