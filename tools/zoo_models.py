"""Architectures for ``tools/zoo.py``, small: names, sizes and how to build them.

Libraries (pytorchcv, torchvision, timm, transformers) are imported when a model is built; one that is missing is an
export failure of its models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

BATCH = 2

# name -> input (channels, sides...)
PYTORCHCV = {
    **dict.fromkeys("squeezenet_v1_1 squeezeresnet_v1_1 espnetv2_wd2 bninception msdnet22".split(), (3, 224, 224)),
    **dict.fromkeys(
        (
            "resnet10 resnetbc14b preresnet10 seresnet10 sepreresnet10 resnext14_32x2d senet16 ibn_resnet50 "
            "diracnet18v2 sharesnet18 bam_resnet18 cbam_resnet18 resnesta18 sknet50 bagnet9 octresnet10_ad2 "
            "densenet121 peleenet condensenet74_c8_g8 hardnet39ds vovnet27s darknet53 dla34 drnd22 "
            "shufflenet_g1_wd4 shufflenet_g3_wd4 shufflenetv2_wd2 shufflenetv2b_wd2 igcv3_wd4 mobilenet_wd4 "
            "mobilenetv2_wd4 mobilenetv3_small_w7d20 mnasnet_a1 ghostnet mixnet_s efficientnet_b0 "
            "efficientnet_b0b regnetx002 regnety002 hrnet_w18_small_v1"
        ).split(),
        (3, 64, 64),
    ),
    **dict.fromkeys("inceptionv3 inceptionv4 xception".split(), (3, 139, 139)),
    **dict.fromkeys("rir_cifar10 densenet40_k12_bc_cifar10 fractalnet_cifar10".split(), (3, 32, 32)),
    **dict.fromkeys(
        (
            "fcn8sd_resnetd50b_voc pspnet_resnetd50b_voc deeplabv3_resnetd50b_voc bisenet_resnet18_celebamaskhq "
            "danet_resnetd50b_cityscapes"
        ).split(),
        (3, 96, 96),
    ),
    **dict.fromkeys(
        (
            "fastscnn_cityscapes cgnet_cityscapes dabnet_cityscapes sinet_cityscapes lednet_cityscapes "
            "esnet_cityscapes erfnet_cityscapes linknet_cityscapes unet_cityscapes edanet_cityscapes "
            "centernet_resnet18_voc simplepose_resnet18_coco lwopenpose2d_mobilenet_cmupan_coco"
        ).split(),
        (3, 128, 128),
    ),
}
TORCHVISION = {
    **dict.fromkeys(
        (
            "resnet50 googlenet shufflenet_v2_x0_5 mnasnet0_5 regnet_y_400mf convnext_tiny swin_t swin_v2_t "
            "efficientnet_v2_s mobilenet_v3_large"
        ).split(),
        (3, 64, 64),
    ),
    **dict.fromkeys("vit_b_32 maxvit_t".split(), (3, 224, 224)),
    **dict.fromkeys("deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large".split(), (3, 96, 96)),
    **dict.fromkeys("r3d_18 r2plus1d_18 mc3_18".split(), (3, 8, 32, 32)),
}
# name -> side of the image; 0 = its own
TIMM = {
    **dict.fromkeys(
        (
            "test_byobnet test_convnext test_convnext2 test_efficientnet test_nfnet test_efficientnet_gn "
            "test_efficientnet_ln test_efficientnet_evos test_mambaout test_maxvit test_coatnet test_resnet "
            "test_vit test_vit2 test_vit3 test_vit_relpos levit_128s crossvit_tiny_240 efficientformer_l1 "
            "xcit_nano_12_p16_224 cait_xxs24_224 mixer_s32_224 gmixer_12_224 gmlp_ti16_224 resmlp_12_224 "
            "deit_tiny_distilled_patch16_224 pit_ti_224 tnt_s_legacy_patch16_224 convit_tiny visformer_tiny "
            "efficientvit_m0 eva02_tiny_patch14_224 efficientvit_b0 davit_tiny focalnet_tiny_srf caformer_s18 "
            "tiny_vit_5m_224 botnet26t_256 lambda_resnet26t sequencer2d_s swiftformer_xs"
        ).split(),
        0,
    ),
    **dict.fromkeys("ghostnetv2_100 mobilevit_xxs mobilevitv2_050 edgenext_xx_small fastvit_t8".split(), 128),
    **dict.fromkeys(
        (
            "repvgg_a0 mobileone_s0 repvit_m0_9 starnet_s1 lcnet_050 tinynet_e tf_efficientnet_lite0 tf_mixnet_s "
            "rexnet_100 fbnetv3_b hardcorenas_a cspresnet50 cspdarknet53 ese_vovnet19b_dw res2net50_14w_8s "
            "skresnet18 resnest14d gcresnext26ts ecaresnet26t hgnetv2_b0 mobilenetv4_conv_small "
            "efficientnet_blur_b0 resnetblur18 inception_next_atto dpn48b hrnet_w18_small rdnet_tiny "
            "poolformer_s12"
        ).split(),
        64,
    ),
}
# name -> (model class, config class, config, inputs by name: shapes with a batch first)
_SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_TEXT = {**_SMALL, "vocab_size": 100, "max_position_embeddings": 64}
_PIXELS = {"pixel_values": (3, 64, 64)}
_VIT = {**_SMALL, "image_size": 64, "patch_size": 16}
_TOKENS = {"input_ids": (12,)}
_STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 2, 1, 1]}
_SOUND = {"conv_dim": [32] * 7, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16}
TRANSFORMERS: Mapping[str, tuple[str, str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT, _PIXELS),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _VIT, _PIXELS),
    "beit": ("BeitForImageClassification", "BeitConfig", _VIT, _PIXELS),
    "yolos": ("YolosForObjectDetection", "YolosConfig", {**_VIT, "image_size": [64, 64]}, _PIXELS),
    "dinov2": ("Dinov2Model", "Dinov2Config", _VIT, _PIXELS),
    "clip_vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", _VIT, _PIXELS),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", _VIT, _PIXELS),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64},
        _PIXELS,
    ),
    "swinv2": (
        "Swinv2ForImageClassification",
        "Swinv2Config",
        {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64},
        _PIXELS,
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32},
        _PIXELS,
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
        _PIXELS,
    ),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
        _PIXELS,
    ),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", _STAGES, _PIXELS),
    "regnet": ("RegNetForImageClassification", "RegNetConfig", {**_STAGES, "groups_width": 8}, _PIXELS),
    "mobilevit": (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 80], "image_size": 64},
        _PIXELS,
    ),
    "poolformer": (
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        _PIXELS,
    ),
    "levit": ("LevitForImageClassification", "LevitConfig", {}, {"pixel_values": (3, 224, 224)}),
    "upernet": (
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        {"hidden_size": 32, "auxiliary_channels": 16, "backbone_config": None},
        _PIXELS,
    ),
    "dpt": ("DPTForDepthEstimation", "DPTConfig", {**_VIT, "num_hidden_layers": 12, "fusion_hidden_size": 32}, _PIXELS),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", "MobileNetV1Config", {"depth_multiplier": 0.25}, _PIXELS),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.35}, _PIXELS),
    "bert": ("BertForSequenceClassification", "BertConfig", _TEXT, {**_TOKENS, "attention_mask": (12,)}),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _TEXT, _TOKENS),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 16}, _TOKENS),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": 100, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
        _TOKENS,
    ),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 24}, _TOKENS),
    "deberta_v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", _TEXT, _TOKENS),
    "mobilebert": ("MobileBertForSequenceClassification", "MobileBertConfig", {**_TEXT, "embedding_size": 48}, _TOKENS),
    "squeezebert": (
        "SqueezeBertForSequenceClassification",
        "SqueezeBertConfig",
        {**_TEXT, "embedding_size": 48},
        _TOKENS,
    ),
    "gpt2": ("GPT2Model", "GPT2Config", {"vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4}, _TOKENS),
    "llama": ("LlamaModel", "LlamaConfig", {**_TEXT, "num_key_value_heads": 2}, _TOKENS),
    "t5_encoder": (
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": 100, "d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4},
        _TOKENS,
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {**_SMALL, **_SOUND}, {"input_values": (2000,)}),
    "hubert": ("HubertModel", "HubertConfig", {**_SMALL, **_SOUND}, {"input_values": (2000,)}),
    "whisper_encoder": (
        "WhisperForAudioClassification",
        "WhisperConfig",
        {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 96}
        | {"max_source_positions": 50, "num_mel_bins": 16},
        {"input_features": (16, 100)},
    ),
}
DYNAMO_EVERY = 3  # of the sources with many entries; all of transformers


# exported once more, by TorchScript, with every size but the channels dynamic
ANY_SIZE = (
    "pytorchcv/shufflenetv2_wd2 pytorchcv/unet_cityscapes pytorchcv/hrnet_w18_small_v1 pytorchcv/linknet_cityscapes "
    "torchvision/lraspp_mobilenet_v3_large timm/ghostnetv2_100 timm/fastvit_t8 timm/tf_efficientnet_lite0 "
    "transformers/segformer transformers/mobilevit transformers/swin transformers/poolformer transformers/bert "
    "transformers/gpt2 transformers/llama transformers/t5_encoder transformers/wav2vec2"
).split()


@dataclass(frozen=True)
class Entry:
    """One architecture: ``build`` gives a torch module and its inputs by name, batch first.

    ``dynamo``: exported by that exporter too; ``any_size``: sides and lengths are dynamic, not the batch alone.
    """

    name: str
    dynamo: bool
    any_size: bool
    build: Callable[[], tuple[Any, dict[str, Any]]] = field(repr=False)


def entries() -> Iterator[Entry]:
    """Every architecture, source by source in turn, so a limit takes some of each."""
    sources: list[tuple[str, Mapping[str, Any], Callable[[str], tuple[Any, dict[str, Any]]]]] = [
        ("pytorchcv", PYTORCHCV, _pytorchcv),
        ("transformers", TRANSFORMERS, _transformers),
        ("timm", TIMM, _timm),
        ("torchvision", TORCHVISION, _torchvision),
    ]
    for index in range(max(len(table) for _, table, _ in sources)):
        for source, table, build in sources:
            if index < len(table):
                name = list(table)[index]
                dynamo = source == "transformers" or index % DYNAMO_EVERY == 0
                make = partial(build, name)
                yield Entry(f"{source}/{name}", dynamo, False, make)
                if f"{source}/{name}" in ANY_SIZE:
                    yield Entry(f"{source}/{name}@any_size", False, True, make)


def declare_torchvision() -> None:
    """Let torchvision import without its compiled operators: they are declared, and never called here."""
    import torch

    names = "nms qnms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d".split()
    names += [f"_{name}_backward" for name in names[2:]]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    torch.library.zoo_keeps_torchvision = library


def _image(size: tuple[int, ...]) -> dict[str, Any]:
    import torch

    return {"input": torch.randn(BATCH, *size)}


def _pytorchcv(name: str) -> tuple[Any, dict[str, Any]]:
    declare_torchvision()
    import torch
    from pytorchcv.model_provider import get_model

    size = PYTORCHCV[name]
    module = get_model(name, pretrained=False, in_size=size[1:])
    features = getattr(module, "features", None)
    if isinstance(getattr(features, "final_pool", None), torch.nn.AvgPool2d):  # of 7 x 7: wants 224 x 224
        features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module, _image(size)


def _torchvision(name: str) -> tuple[Any, dict[str, Any]]:
    declare_torchvision()
    import torchvision

    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    extra |= {"weights_backbone": None} if "_mobilenet_v3_" in name and "mobilenet" not in name[:9] else {}
    return torchvision.models.get_model(name, weights=None, **extra), _image(TORCHVISION[name])


def _timm(name: str) -> tuple[Any, dict[str, Any]]:
    declare_torchvision()
    import timm

    module = timm.create_model(name, pretrained=False, exportable=True)
    side = TIMM[name] or module.default_cfg["input_size"][-1]
    return module, _image((3, side, side))


def _transformers(name: str) -> tuple[Any, dict[str, Any]]:
    declare_torchvision()
    import torch
    import transformers

    model, config, options, shapes = TRANSFORMERS[name]
    if name == "upernet":
        stages = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
        backbone = transformers.ConvNextConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"])
        options = {**options, "backbone_config": backbone, "auxiliary_in_channels": 32}
    module = getattr(transformers, model)(
        getattr(transformers, config)(**options, attn_implementation="eager", return_dict=True)
    )
    inputs = {}
    for key, shape in shapes.items():
        tokens = torch.randint(4, 100, (BATCH, *shape))
        inputs[key] = tokens if key == "input_ids" else torch.randn(BATCH, *shape)
        inputs[key] = torch.ones_like(tokens) if key == "attention_mask" else inputs[key]
    return module, inputs
