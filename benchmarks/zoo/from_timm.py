"""timm: small members of every family, two or three where a family holds different designs."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.entries import Built, Entry

LARGEST_SIDE = 256
REDUCED_SIDE = 224

# Module of timm: models.
MODELS = {
    "beit": "beit_base_patch16_224",
    "byoanet": "botnet26t_256 eca_halonext26ts halonet26t lambda_resnet26t",
    "byobnet": "gernet_s mobileone_s0 repvgg_a0 regnetz_b16 resnet50_clip gcresnet33ts "
    "bat_resnext26ts resnet51q",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny coat_lite_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto convnext_atto_ols convnextv2_atto convnext_atto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240 crossvit_9_dagger_240",
    "csatv2": "csatv2",
    "cspnet": "cspdarknet53 cspresnet50 cs3darknet_s darknet17 cs3sedarknet_l",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla34 dla46x_c dla60_res2net",
    "dpn": "dpn48b dpn68",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0 efficientnet_lite0 efficientnet_b0_gn efficientnetv2_rw_t "
    "efficientnet_blur_b0 efficientnet_cc_b0_4e fbnetc_100 mixnet_s mnasnet_small mobilenetv1_100 "
    "mobilenet_edgetpu_100 efficientnet_es tinynet_e",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0 efficientvit_l1",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224 vit_small_patch16_rope_224 vit_small_patch16_dinov3",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8 fastvit_sa12",
    "focalnet": "focalnet_tiny_srf focalnet_tiny_lrf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s levit_conv_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "coatnet_nano_rw_224 maxvit_pico_rw_256 coatnext_nano_rw_224 "
    "maxxvit_rmlp_nano_rw_256 coatnet_rmlp_nano_rw_224",
    "metaformer": "poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18",
    "mlp_mixer": "mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050 mobilenetv3_large_100 lcnet_050 fbnetv3_b "
    "mobilenetv4_conv_small mobilenetv4_hybrid_medium",
    "mobilenetv5": "mobilenetv5_300m",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "mvitv2": "mvitv2_tiny mvitv2_small_cls",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nfnet_l0 nf_regnet_b0 nf_resnet26 eca_nfnet_l0",
    "pit": "pit_ti_224 pit_ti_distilled_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0 pvt_v2_b2_li",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002 regnety_002 regnetz_005 regnetv_040",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_26w_4s res2next50",
    "resnest": "resnest14d resnest50d_4s2x40d",
    "resnet": "resnet10t resnet18d resnet26t resnext50_32x4d ecaresnet26t resnetblur18 "
    "resnet50_gn seresnet18 resnetaa34d resnetrs50",
    "resnetv2": "resnetv2_18 resnetv2_50 resnetv2_50x1_bit resnetv2_50d_gn",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18 legacy_seresnext26_32x4d",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18 skresnext50_32x4d",
    "starnet": "starnet_s1",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224 swin_s3_tiny_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small twins_svt_small",
    "vgg": "vgg11_bn",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224 vit_base_patch32_224 vit_small_patch16_18x2_224 "
    "vit_base_patch32_clip_224 vit_base_patch16_siglip_224 flexivit_small "
    "vit_base_patch16_rpn_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224 vit_small_resnet26d_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "vovnet39a ese_vovnet19b_dw eca_vovnet39b",
    "xception": "legacy_xception",
    "xception_aligned": "xception41 xception41p",
    "xcit": "xcit_nano_12_p16_224",
}


def entries() -> Iterator[Entry]:
    """All of them, module by module."""
    for names in MODELS.values():
        for name in names.split():
            yield Entry(f"timm/{name}", partial(build, name))


def build(name: str) -> Built:
    """The model with random weights, at its own input size if that is at most 256."""
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False)
    channels, side = shape_of(model)
    if side > LARGEST_SIDE:
        side = REDUCED_SIDE
        model = at_side(name, model, side)
    return model, torch.randn(2, channels, side, side)


def shape_of(model: Any) -> tuple[int, int]:
    """Channels and side of the images that a model was designed for."""
    shape = model.pretrained_cfg.get("input_size", (3, REDUCED_SIDE, REDUCED_SIDE))
    return shape[0], shape[-1]


def at_side(name: str, model: nn.Module, side: int) -> nn.Module:
    """The same model for smaller images; most need nothing for that."""
    import timm

    try:
        smaller: nn.Module = timm.create_model(name, pretrained=False, img_size=side)
    except TypeError:  # the constructor knows no image size: any will do
        return model
    return smaller
