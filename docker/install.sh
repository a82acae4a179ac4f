#!/bin/sh
# install.sh ENVIRONMENT EXTRA...
# Installs what these extras of pyproject.toml ask for into the virtual environment ENVIRONMENT, in the versions of
# constraints.txt. A wheel in wheels/ takes the place of its package's pinned version.
# TARGETARCH is the processor of the image, in Docker's words. If this machine has another one, the wheels for that
# processor are unpacked, and none of its programs runs. The environment's Python must be of the same version on both.
set -eu
environment=$1
shift
python requirements.py "$@" >requirements.txt

cp constraints.txt pins.txt
for wheel in "$PWD"/wheels/*.whl; do
    [ -e "$wheel" ] || continue
    name=$(basename "$wheel" | cut -d - -f 1 | tr 'A-Z_.' 'a-z--')
    sed -i "/^$name==/d" pins.txt
    echo "$name @ file://$wheel" >>pins.txt
done
set -- --no-cache-dir --constraint pins.txt --requirement requirements.txt

case $(uname -m) in
    x86_64) here=amd64 ;;
    aarch64) here=arm64 ;;
    *) here=$(uname -m) ;;
esac
if [ "${TARGETARCH:-$here}" = "$here" ]; then
    pip --python "$environment/bin/python" install "$@"
    pip --python "$environment/bin/python" check
    exit
fi

case $TARGETARCH in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "error: no wheels are known for TARGETARCH '$TARGETARCH'; amd64 and arm64 are" >&2; exit 1 ;;
esac
# A wheel names the oldest C library (glibc 2.NN) that it runs on: any up to this image's own will do.
set -- "$@" --platform "linux_$machine" --platform "manylinux2014_$machine"
for minor in $(seq 17 "$(getconf GNU_LIBC_VERSION | cut -d . -f 2)"); do
    set -- "$@" --platform "manylinux_2_${minor}_$machine"
done
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pip install "$@" --only-binary :all: --target "$packages"
rm -rf "${packages:?}/bin" # commands that would start this machine's Python
