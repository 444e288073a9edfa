"""Tiny random checkpoints of every family, written by transformers alone: true layout, a few thousand numbers."""

from __future__ import annotations

import torch

SPECIAL = [
    "<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
PLAIN = "<image>\n"
QWEN = "<|vision_start|><|image_pad|><|vision_end|>"


def template(picture):
    return (
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}"
        + picture
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' ' }}"
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def tokenizer(**extra):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["real fake synthetic tampered picture the of and"] * 5, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        **extra,
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL[4:]})
    return made


def clip(**more):
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56,
        patch_size=14, projection_dim=32, **more,
    )  # fmt: skip


def llama(words, cls=None, **more):
    from transformers import LlamaConfig

    sizes = {
        "vocab_size": len(words), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    return (cls or LlamaConfig)(**sizes | more)


def llava(**text):
    import transformers as t

    words = tokenizer()
    config = t.LlavaConfig(
        vision_config=clip(), text_config=llama(words, **text),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16,
    )  # fmt: skip
    pictures = t.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = t.LlavaProcessor(
        image_processor=pictures, tokenizer=words, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template(PLAIN),
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config), processor


def llava_next():
    import transformers as t

    words, grid = tokenizer(), [[56, 112], [112, 56], [112, 112]]
    config = t.LlavaNextConfig(
        vision_config=clip(), text_config=llama(words), image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_grid_pinpoints=grid,
        image_seq_length=16,
    )  # fmt: skip
    pictures = t.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=grid
    )
    processor = t.LlavaNextProcessor(
        image_processor=pictures, tokenizer=words, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template(PLAIN),
    )  # fmt: skip
    return t.LlavaNextForConditionalGeneration(config), processor


def llava_onevision():
    import transformers as t

    words, grid = tokenizer(), [[56, 56], [56, 112], [112, 56], [112, 112]]
    vision = t.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
    )
    config = t.LlavaOnevisionConfig(
        vision_config=vision, text_config=llama(words, t.Qwen2Config),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"), vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_grid_pinpoints=grid, vision_aspect_ratio="anyres_max_4",
    )  # fmt: skip
    processor = t.LlavaOnevisionProcessor(
        image_processor=t.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=grid),
        video_processor=t.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}),
        tokenizer=words, num_image_tokens=16, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4",
        chat_template=template(PLAIN),
    )  # fmt: skip
    return t.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen_ids(words):
    return {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }


def qwen2_5_vl():
    import transformers as t

    words = tokenizer()
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 48, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = llama(
        words,
        t.Qwen2_5_VLTextConfig,
        rope_parameters={"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0},
    )
    config = t.Qwen2_5_VLConfig(vision_config=vision, text_config=text.to_dict(), **_qwen_ids(words))
    pictures = t.Qwen2VLImageProcessor(
        min_pixels=28 * 28, max_pixels=28 * 28 * 16, patch_size=14, merge_size=2
    )
    processor = t.Qwen2_5_VLProcessor(
        image_processor=pictures,
        tokenizer=words,
        video_processor=t.Qwen2VLVideoProcessor(),
        chat_template=template(QWEN),
    )
    return t.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl():
    import transformers as t

    words = tokenizer()
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 48, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text = llama(
        words,
        t.Qwen3VLTextConfig,
        head_dim=12,
        rope_parameters={"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0},
    )
    config = t.Qwen3VLConfig(vision_config=vision, text_config=text.to_dict(), **_qwen_ids(words))
    pictures = t.Qwen2VLImageProcessor(
        min_pixels=32 * 32, max_pixels=32 * 32 * 16, patch_size=16, merge_size=2
    )
    processor = t.Qwen3VLProcessor(
        image_processor=pictures,
        tokenizer=words,
        video_processor=t.Qwen3VLVideoProcessor(),
        chat_template=template(QWEN),
    )
    return t.Qwen3VLForConditionalGeneration(config), processor


FAMILIES = {f.__name__: f for f in (llava, llava_next, llava_onevision, qwen2_5_vl, qwen3_vl)}


def write(family, folder, **options):
    torch.manual_seed(0)
    model, processor = FAMILIES[family](**options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
