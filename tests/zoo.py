"""Every image classifier of transformers and one model of every timm family, tiny and with random weights.

A class or family that is new in the libraries is tested too, with the rules below: list it here if they do not fit.
REFUSED has those whose head cannot be mixed, with the reason.
"""

import timm
import torch
import transformers
from transformers import CONFIG_MAPPING, TimmWrapperConfig, TimmWrapperForImageClassification
from transformers.models.auto import modeling_auto

import selmix_hf.models.wide_resnet  # noqa: F401  a family of this package

K, B, PIXELS = 7, 2, 64

REFUSED = {
    "PPLCNetForImageClassification": "returns its logits as last_hidden_state, so Trainer cannot train it either",
    "ShieldGemma2ForImageClassification": "two entries of a language model's output; its head runs on tokens",
    "crossvit": "mean of two heads of different width",
    "efficientvim": "weighted sum of four heads",
    "volo": "adds half of its auxiliary head's maximum over all tokens",
}

# Arguments set on every config that has them (as one number, where the config has one number).
TINY = {
    "hidden_size": 16,
    "pooler_output_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": PIXELS,
    "patch_size": 8,
}
VISION = {"vision_config": {**TINY, "vision_use_head": False}}
SWIN = {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
TRANSFORMERS_CONFIGS = {
    "bit": {**STAGES, "embedding_size": 8, "num_groups": 2},
    "clip": VISION,
    "convnext": {**STAGES, "patch_size": 4},
    "convnextv2": {**STAGES, "patch_size": 4},
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "data2vec-vision": {"out_indices": [0, 1, 1, 1]},
    "dinat": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "dilations": [[1], [1]], "patch_size": 4},
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "focalnet": {**STAGES, "embed_dim": 8, "patch_size": 4},
    "hgnet_v2": {
        **STAGES,
        "stem_channels": [3, 4, 8],
        "stage_in_channels": [8, 8, 16, 24],
        "stage_mid_channels": [4, 4, 8, 8],
        "stage_out_channels": [8, 16, 24, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [64, 64]},
    "imagegpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 33, "n_positions": 16},
    "levit": {"hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 2, 2], "depths": [1, 1, 1], "patch_size": 16},
    "metaclip_2": VISION,
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [4, 8, 8, 16, 16, 16, 32], "patch_size": 2},
    "mobilevitv2": {"width_multiplier": 0.25, "patch_size": 2},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 16,
        "d_model": 16,
        "num_self_attends_per_block": 1,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 1,
    },
    "poolformer": STAGES,
    "pp_lcnet": {"scale": 0.25, "class_expand": 32},
    "pvt": {**STAGES, "num_attention_heads": [1, 1, 2, 2]},
    "pvt_v2": {**STAGES, "num_attention_heads": [1, 1, 2, 2]},
    "regnet": {**STAGES, "embedding_size": 8, "groups_width": 8},
    "resnet": {**STAGES, "embedding_size": 8},
    "segformer": {**STAGES, "num_attention_heads": [1, 1, 2, 2]},
    "siglip": VISION,
    "siglip2": {"vision_config": {**TINY, "num_patches": 16, "vision_use_head": False}},
    "swiftformer": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {"hidden_sizes": [8, 8, 16, 16, 32], "stem_out_channels": 8},
    "timm_wrapper": {"architecture": "test_convnext"},
}


# The smallest model of each timm family; arguments that make it smaller; pixels where 64 do not do.
TIMM_MODELS = {
    "beit": ("beit_base_patch16_224", {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "byoanet": ("lambda_resnet26rpt_256", {}),
    "byobnet": ("test_byobnet", {}),
    "cait": ("cait_xxs24_224", {"depth": 2}),
    "coat": ("coat_lite_tiny", {}),
    "convit": ("convit_tiny", {"depth": 11}),
    "convmixer": ("convmixer_768_32", {}),
    "convnext": ("test_convnext", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_tiny_240", {}, 240),
    "csatv2": ("csatv2", {}),
    "cspnet": ("cs3darknet_focus_s", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {"depths": (1, 1, 1, 1), "embed_dims": (32, 32, 64, 64), "num_heads": (1, 1, 2, 2)}),
    "deepseek_vit": ("deepseek_vit_412m", {"depth": 1, "embed_dim": 128, "num_heads": 2}, 56),
    "deit": ("deit_tiny_distilled_patch16_224", {"depth": 2}),
    "densenet": ("densenet121", {}),
    "dla": ("dla46x_c", {}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_x_small", {}),
    "efficientformer": ("efficientformer_l1", {}, 224),
    "efficientformer_v2": ("efficientformerv2_s0", {}),
    "efficientnet": ("mnasnet_small", {}),
    "efficientvim": ("efficientvim_m1", {}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {}),
    "eva": ("eva02_tiny_patch14_224", {"depth": 2}, 56),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "gemma4_vit": ("gemma4_vit_167m", {"depth": 1, "embed_dim": 128, "num_heads": 2}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_a", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hiera": ("hiera_tiny_224", {"embed_dim": 16, "stages": (1, 1, 1, 1)}),
    "hieradet_sam2": ("sam2_hiera_tiny", {"embed_dim": 16, "stages": (1, 1, 2, 1)}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {}, 128),
    "inception_v3": ("inception_v3", {}, 128),
    "inception_v4": ("inception_v4", {}, 128),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("test_mambaout", {}),
    "maxxvit": ("test_coatnet", {}),
    "metaformer": ("poolformerv2_s12", {}),
    "mlp_mixer": ("gmlp_ti16_224", {}),
    "mobilenetv3": ("lcnet_035", {}),
    "mobilenetv5": ("mobilenetv5_base", {}),
    "mobilevit": ("mobilevitv2_050", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "nasnet": ("nasnetalarge", {}),
    "nest": ("nest_tiny", {}),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("test_nfnet", {}),
    "pit": ("pit_ti_distilled_224", {}),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "qwen3_vit": ("qwen3_vit_88m", {"depth": 1, "embed_dim": 128, "num_heads": 2}),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnetx_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m1", {}),
    "res2net": ("res2next50", {}),
    "resnest": ("resnest14d", {}),
    "resnet": ("resnet10t", {}),
    "resnetv2": ("resnetv2_18", {}),
    "rexnet": ("rexnet_100", {}),
    "selecsls": ("selecsls42", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", {"layers": (1, 1, 1, 1)}),
    "shvit": ("shvit_s1", {}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "tiny_vit": ("tiny_vit_5m_224", {}),
    "tnt": ("tnt_s_legacy_patch16_224", {"depth": 1}),
    "tresnet": ("tresnet_m", {}),
    "twins": ("twins_svt_small", {"depths": (1, 1, 1, 1)}),
    "vgg": ("vgg11", {}),
    "visformer": ("visformer_tiny", {}),
    "vision_transformer": ("test_vit", {}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {}),
    "vision_transformer_relpos": ("test_vit_relpos", {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "vitamin": ("vitamin_small_224", {"depth": 1}),
    "volo": ("volo_d1_224", {}),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
    "wide_resnet": ("wrn_28_2", {}),
    "xception": ("legacy_xception", {}),
    "xception_aligned": ("xception41p", {}),
    "xcit": ("xcit_nano_12_p8_224", {"depth": 2}),
}
TIMM_SLOW = {"inception_resnet_v2", "inception_v4", "mobilenetv5", "nasnet", "pnasnet", "vgg"}


def pixels(side: int = PIXELS) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2 * B, 3, side, side)}


def tiny_config(model_type: str):
    defaults = CONFIG_MAPPING[model_type]().to_dict()
    tiny = {key: value for key, value in TINY.items() if isinstance(defaults.get(key), int)}
    return CONFIG_MAPPING[model_type](**{**tiny, **TRANSFORMERS_CONFIGS.get(model_type, {}), "num_labels": K})


def shieldgemma2():
    text = {**TINY, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64}
    vision = {**TINY, "vision_use_head": False}
    config = transformers.ShieldGemma2Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    config.yes_token_index, config.no_token_index = 1, 2
    return config, {"input_ids": torch.randint(3, 60, (2 * B, 5))}


def timm_model(architecture: str, size: int, **arguments):
    try:
        config = TimmWrapperConfig(architecture=architecture, model_args={"img_size": size, **arguments}, num_labels=K)
        return TimmWrapperForImageClassification(config)
    except TypeError:  # a model for any image size
        config = TimmWrapperConfig(architecture=architecture, model_args=arguments, num_labels=K)
        return TimmWrapperForImageClassification(config)


def smallest(family: str) -> str:
    with torch.device("meta"):
        models = {name: timm.create_model(name) for name in timm.list_models(module=family)}
    return min(models, key=lambda name: sum(p.numel() for p in models[name].parameters()))


def transformers_classes() -> list[tuple[str, str]]:
    mapping = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return [
        (model_type, name)
        for model_type, names in mapping.items()
        for name in ([names] if isinstance(names, str) else names)
    ]
