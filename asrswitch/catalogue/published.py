"""The published Qwen3-ASR files: where they lie, and what is known of them.

A size or a SHA-256 stands here only where the publisher's own list has it, or several programs that pin the
file agree. What is missing here is taken from what the hub states when a file is fetched, and that is said.
"""

from __future__ import annotations

import enum

import msgspec

CHECKPOINT = "checkpoint"  # the type of the official ones: original weights, to be converted
DEFAULT_TYPE = "q4_0"
_APACHE = "Apache-2.0"


class Host(enum.Enum):
    """Who serves a file."""

    HUGGING_FACE = "Hugging Face"
    MODELSCOPE = "ModelScope"


class PublishedFile(msgspec.Struct, frozen=True):
    """One file of a repository."""

    path: str
    bytes: int | None = None
    sha256: str | None = None


class Published(msgspec.Struct, frozen=True):
    """A model as somebody published it."""

    name: str
    type: str
    host: Host
    repository: str
    revision: str
    files: tuple[PublishedFile, ...]
    licence: str

    @property
    def local_name(self) -> str:
        """Of the file, or of the checkpoint's folder, in the models directory."""
        return self.name if self.type == CHECKPOINT else file_name(self.name, self.type)

    @property
    def bytes(self) -> int | None:
        """All files together; None where one's size is not known."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def file_name(name: str, type: str) -> str:
    """What a model file of this name and type is called: qwen3-asr-0.6b-q4_0.bin."""
    return f"qwen3-asr-{name.lower()}-{type}.bin"


# What both checkpoints have in common. Several programs that download them pin each of these files and those
# below, with size and sum; and the sizes add up to the 1,880,619,678 and 4,703,114,308 bytes that others
# found for all files of these revisions, with the 58,975 bytes of README.md and .gitattributes.
_COMMON = (
    PublishedFile(
        "generation_config.json", 142, "1da527824d81e07118facff437e03f2e24a23311e3bdeb2368973fe77e5f275c"
    ),
    PublishedFile(
        "preprocessor_config.json", 330, "45e120a4eda2c20c5d7f2ea9354e63536bf35e27aa573fb7cdf78017b378770d"
    ),
    PublishedFile(
        "tokenizer_config.json", 12_487, "4942d005604266809309cabc9f4e9cb89ce855d59b14681fdc0e1cc62ea26c4c"
    ),
    PublishedFile(
        "chat_template.json", 1_161, "75a8cfca24f00de72d796fbfed6858fc9614ef3dabd8696684cc3bc03a9c58ff"
    ),
    PublishedFile(
        "vocab.json", 2_776_833, "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910"
    ),
    PublishedFile(
        "merges.txt", 1_671_853, "8831e4f1a044471340f7c0a83d7bd71306a5b867e95fd870f74d0c5308a904d5"
    ),
)

PUBLISHED = (
    # The hub's page lists the file. A Git LFS pointer of the same author to a file of that name says
    # 538,868,432 bytes; that it is the same one is likely and not proven: what the hub states counts.
    Published(
        name="0.6B",
        type="q4_0",
        host=Host.HUGGING_FACE,
        repository="Luigi/Qwen3-ASR-0.6B-chatllm-quantized",
        revision="main",
        files=(PublishedFile("qwen3-asr-0.6b-q4_0.bin"),),
        licence=_APACHE,
    ),
    # chatllm.cpp's own list (scripts/models.json) has these two, with sizes and licence and without sums.
    Published(
        name="0.6B",
        type="q8_0",
        host=Host.MODELSCOPE,
        repository="judd2024/chatllm_quantized_qwen3",
        revision="master",
        files=(PublishedFile("qwen3-asr-0.6b.bin", 1_005_656_864),),
        licence=_APACHE,
    ),
    Published(
        name="1.7B",
        type="q8_0",
        host=Host.MODELSCOPE,
        repository="judd2024/chatllm_quantized_qwen3",
        revision="master",
        files=(PublishedFile("qwen3-asr-1.7b.bin", 2_505_570_400),),
        licence=_APACHE,
    ),
    Published(
        name="Qwen3-ASR-0.6B",
        type=CHECKPOINT,
        host=Host.HUGGING_FACE,
        repository="Qwen/Qwen3-ASR-0.6B",
        revision="5eb144179a02acc5e5ba31e748d22b0cf3e303b0",
        files=(
            PublishedFile(
                "config.json", 6_193, "76d3ae4601ce939830b2517f4a6cadb86cc51316c3900af6b020b051c21a478c"
            ),
            *_COMMON,
            PublishedFile(
                "model.safetensors",
                1_876_091_704,
                "79d6cbd4c98c7bbffe9db2edac07f56cd6637d0d5944b27f6c2b8353840323ea",
            ),
        ),
        licence=_APACHE,
    ),
    Published(
        name="Qwen3-ASR-1.7B",
        type=CHECKPOINT,
        host=Host.HUGGING_FACE,
        repository="Qwen/Qwen3-ASR-1.7B",
        revision="7278e1e70fe206f11671096ffdd38061171dd6e5",
        files=(
            PublishedFile(
                "config.json", 6_194, "2e74a751548b8ad7d7526d29365ad8144c345d8b412b1152d25dc6698452712f"
            ),
            *_COMMON,
            PublishedFile(
                "model.safetensors.index.json",
                64_821,
                "f994739fe38e5210b9e3e8ce6c6307315e2ceac3cb630e7b7414d69dce520f60",
            ),
            PublishedFile(
                "model-00001-of-00002.safetensors",
                4_220_320_824,
                "a4cd1f1a04d90b757dc7f7dd26254e69a013b19e80efe590a83c6a3bde8608d6",
            ),
            PublishedFile(
                "model-00002-of-00002.safetensors",
                478_200_688,
                "6e0b9d9e09e2e0238e7ef3cc8a484ab387e91b90f1900bedf88bc92d7929ccfc",
            ),
        ),
        licence=_APACHE,
    ),
)


def find_published(name: str, type: str) -> Published | None:
    """The published model of this name, whose case does not matter, and type."""
    wanted = name.casefold()
    return next((item for item in PUBLISHED if (item.name.casefold(), item.type) == (wanted, type)), None)


def checkpoint_of(name: str) -> Published | None:
    """The official checkpoint that a model of this name is made from."""
    return find_published(f"Qwen3-ASR-{name}", CHECKPOINT)
