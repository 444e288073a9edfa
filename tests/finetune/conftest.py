"""A tiny checkpoint to train on, and a launcher of two processes."""

import os
import socket
import subprocess
import sys

import pytest

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a random checkpoint in LLaVA-1.5's layout (CLIP tower, Llama), made by transformers alone."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(
        ["This picture is real fake synthetic tampered of the and edges"] * 5, trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56,
        patch_size=14, projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=1,
        eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def lesson(tmp_path_factory):
    """A JSON-lines file of twelve samples of three labels; the tampered ones have masks, one has none."""
    import numpy as np

    from vlmforensics.finetune.samples import Sample, digest, write_samples
    from vlmforensics.imaging import encode

    folder = tmp_path_factory.mktemp("lesson")
    rng = np.random.default_rng(0)
    samples = []
    for index in range(12):
        label = ("real", "synthetic", "tampered")[index % 3]
        pixels = rng.integers(0, 256, (60 + index, 90, 3), dtype=np.uint8)
        mask = None
        if label == "synthetic":
            pixels[:] = pixels.mean((0, 1)).astype(np.uint8)
        if label == "tampered":
            pixels[10:40, 20:50] = 255
            plane = np.zeros_like(pixels)
            plane[10:40, 20:50] = 255
            mask = folder / f"mask{index}.png" if index > 2 else None
            if mask is not None:
                mask.write_bytes(encode(plane, "PNG"))
        image = folder / f"{index}.png"
        image.write_bytes(encode(pixels, "PNG"))
        samples.append(
            Sample(
                image=image, sha256=digest(image), label=label, source=f"s{index % 4}", mask=mask,
                hints=("The blending detector gives 0.50 out of 1.",),
                answer="It shows edges" + " of the picture" * (index % 4) + ".",
            )
        )  # fmt: skip
    file = folder / "samples.jsonl"
    write_samples(file, samples)
    return file


@pytest.fixture
def train_in_two(tmp_path):
    """Run ``finetune train`` in two processes: ``train_in_two("--recipe", …, changes=[…], precision="no")``.

    ``--multi_gpu`` is accelerate's name for its launcher of several local processes; ``--cpu`` would start one alone.
    """

    def run(*arguments, changes, precision):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", precision, "--dynamo_backend", "no",
            "--num_cpu_threads_per_process", "1", "--main_process_port", str(port),
            "-m", "vlmforensics.finetune.cli", "train", *map(str, arguments),
        ]  # fmt: skip
        for change in changes:
            command += ["--set", change]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "ACCELERATE_CONFIG_FILE": str(tmp_path / "none.yaml"),
        }
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
