"""`models.wide_resnet` under the name that cards tell people to import."""

from selmix_hf.models.wide_resnet import wrn_28_2 as wrn_28_2
from selmix_hf.models.wide_resnet import wrn_28_8 as wrn_28_8
from selmix_hf.models.wide_resnet import wrn_37_2 as wrn_37_2
