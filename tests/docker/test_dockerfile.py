"""What the Dockerfile and .dockerignore say, read without Docker; `.ci/image` builds the images and runs them."""

import re
from pathlib import Path

import pytest
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parents[2]
TEXT = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
LIST = re.split(r"^(?=FROM )", TEXT, flags=re.MULTILINE)[1:]
STAGES = {match[1]: stage for stage in LIST if (match := re.match(r"FROM .*\S+ AS (\S+)", stage))}
# Docker's patterns are those of git, but begin at the root.
IGNORED = GitIgnoreSpec.from_lines(
    re.sub(r"^(!?)", r"\1/", line) for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
)


def built_from(name: str) -> str:
    """The instructions of a stage, of the one it starts from and of those it copies from."""
    named = re.findall(r"(?:^FROM (?:--platform=\S+ )?|--from=)(\S+)", STAGES[name], re.MULTILINE)
    return STAGES[name] + "".join(built_from(each) for each in named if each in STAGES)


def test_runtime_is_built_without_the_training_packages() -> None:
    """No stage that reaches the robot's image asks for torch or an extra of training; the trainer's asks for them."""
    assert not re.search(r"\b(torch|train|data)\b", built_from("runtime"))
    assert re.search(r"install\.sh /opt/msr train data$", built_from("train"), re.MULTILINE)


def test_the_robots_image_is_the_default() -> None:
    assert LIST[-1].split() == ["FROM", "runtime"]


@pytest.mark.parametrize("image", ["runtime", "train"])
def test_images_are_not_root_and_start_msr(image: str) -> None:
    """By number, so that Kubernetes can tell it from root; in exec form, so that signals reach msr."""
    text = built_from(image)
    assert [int(number) for number in re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)] == [10001]
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE) == ['["msr"]']
    for variable in ("ORT_DISABLE_TELEMETRY=1", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1"):
        assert variable in text


@pytest.mark.parametrize("image", ["runtime", "train"])
def test_no_program_of_another_processor_runs(image: str) -> None:
    """A stage of the image's own platform runs nothing, so that an image for arm64 is assembled on amd64."""
    own = [stage for name, stage in STAGES.items() if name in {"common", image}]
    assert len(own) == 2
    assert not re.search(r"^(RUN|WORKDIR) ", "".join(own), re.MULTILINE)
    others = {name: stage for name, stage in STAGES.items() if name not in {"common", "runtime", "train"}}
    for name, stage in others.items():
        assert re.match(r"FROM (--platform=\$BUILDPLATFORM |[a-z-]*packages AS )", stage), name


def test_the_images_hold_the_list_of_their_packages() -> None:
    for image in ("runtime", "train"):
        assert re.search(rf"^COPY --from={image}-sbom /sbom.cdx.json /opt/msr/$", STAGES[image], re.MULTILINE)
        assert "cyclonedx-py environment --validate" in STAGES[f"{image}-sbom"]


def test_the_classic_builder_suffices() -> None:
    """Nothing that only BuildKit knows, and no registry's address."""
    for construct in ("# syntax", "--mount", "--chmod", "--link", "<<", "://", "docker.io/"):
        assert construct not in (ROOT / "Dockerfile").read_text(encoding="utf-8"), construct


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "runs/demo/bundle/manifest.json",
        "tests/docker/test_dockerfile.py",
        "msr_runtime/__pycache__/cli.cpython-311.pyc",
        "token",
    ],
)
def test_the_context_leaves_out(path: str) -> None:
    assert IGNORED.match_file(path)


def test_the_context_has_what_the_images_copy() -> None:
    """Each source of a COPY is there, and .dockerignore lets it in."""
    text = TEXT.replace("${WHEELS}", "docker/wheels")
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert "msr_runtime" in sources
    for source in sources:
        path = ROOT / source
        files = [path] if path.is_file() else [*path.glob("*.py"), *path.glob("*/*.py"), *path.glob("*.md")]
        assert files, source
        assert not [file for file in files if IGNORED.match_file(file.relative_to(ROOT))], source
